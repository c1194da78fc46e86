"""What README shows is what the examples do, and what it names exists."""

import re

import blocks
import pytest

README = (blocks.ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted(f"examples/{path.name}" for path in (blocks.ROOT / "examples").glob("*.py"))
SHOWN = dict(re.findall(r"\[`(examples/\w+\.py)`\].*?^```python\n(.*?)^```", README, re.M | re.S))


def test_every_example_is_shown():
    assert sorted(SHOWN) == EXAMPLES


@pytest.mark.parametrize("example", SHOWN)
def test_what_is_shown_of_an_example_stands_in_it(example):
    """Line by line and in this order; "# …" stands for lines between."""
    script = [line.strip() for line in (blocks.ROOT / example).read_text("utf-8").splitlines()]
    place = -1
    follows = False
    for line in filter(None, map(str.strip, SHOWN[example].splitlines())):
        if line.startswith("# …"):
            follows = False
            continue
        rest = [n for n, other in enumerate(script) if n > place and other == line]
        assert rest, f"{example} has no line {line!r} there"
        assert not follows or not any(script[place + 1 : rest[0]]), f"lines are left out: {line!r}"
        place, follows = rest[0], True


def test_the_scripts_and_documents_named_exist():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (blocks.ROOT / target).exists(), target

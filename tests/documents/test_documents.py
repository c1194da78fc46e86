"""The documentation's tables are those of the recorded results."""

import re

import documents
import pytest

DOCUMENTS = [documents.ROOT / "README.md", *sorted((documents.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_results(path):
    text = path.read_text(encoding="utf-8")
    assert documents.rewritten(text) == text, "run python benchmarks/documents.py"


def test_every_table_stands_in_one_document():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert {n: text.count(f"<!-- table {n} -->") for n in documents.TABLES} == dict.fromkeys(
        documents.TABLES, 1
    )


def test_a_changed_figure_is_noticed():
    text = (documents.ROOT / "README.md").read_text(encoding="utf-8")
    figure = f"{documents.load('demo')['result']['pruned']['accuracy']:.2f}"
    assert documents.rewritten(text.replace(figure, "99.99")) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_modules_that_are_named_exist(path):
    named = re.findall(
        r"`((?:formulations|mipprune|benchmarks)/[\w/.-]*)`", path.read_text("utf-8")
    )
    missing = [name for name in named if not (documents.ROOT / name).exists()]
    assert [name for name in missing if "NAME" not in name] == []


@pytest.mark.parametrize("package", ["formulations", "mipprune"])
def test_the_tree_of_the_architecture_has_every_room(package):
    text = (documents.ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (tree,) = re.findall(rf"^    {package}/ .*?\n\n", text, re.DOTALL | re.MULTILINE)
    shown = sorted(re.findall(r"^      (\w+)/ ", tree, re.MULTILINE))
    folders = (documents.ROOT / package).glob("*/__init__.py")
    assert shown == sorted(file.parent.name for file in folders)


def test_the_new_paths_of_the_changes_exist():
    text = (documents.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\S+` \| (.*) \|$", text, re.MULTILINE)
    named = [name.replace(".", "/") for row in rows for name in re.findall(r"`(\w[\w.]*)`", row)]
    roots = [documents.ROOT / name for name in named]
    assert len(roots) > 90
    assert [str(r) for r in roots if not (r.is_dir() or r.with_suffix(".py").exists())] == []

"""Modules as people write them: refused, or what is left computes what the masked one does."""

import pytest
import zoo_ours
from zoo_modules import MODULES
from zoo_networks import Entry
from zoo_table import faults

# inputs other than a tensor, and channels that become places
TO_COME = {"siamese", "keyword-inputs", "pixel-shuffle"}


def entry(name):
    case = MODULES[name]
    return Entry(f"modules/{name}", case.build, case.inputs, case.outputs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason="not traced yet", strict=False))
        if name in TO_COME
        else name
        for name in MODULES
    ],
)
def test_a_module_is_refused_or_made_smaller_exactly(name):
    rows = []
    zoo_ours.run(entry(name), rows.append, export=False, one_shot=False)
    assert faults({name: {"ours": rows[-1]}}) == []
    assert rows[-1]["signal"] > 1e-3  # else a difference would not be seen


def test_plain_networks_are_not_refused():
    rows = []
    zoo_ours.run(entry("residual"), rows.append, export=False, one_shot=False)
    assert rows[-1]["effect"] > 1e-2
    assert 0.4 < rows[-1]["share"] <= 0.52

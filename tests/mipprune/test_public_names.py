"""The public surface of mipprune."""

import subprocess
import sys

import mipprune


def test_every_public_name_is_there_and_listed():
    assert set(mipprune.__all__) <= set(dir(mipprune))
    for name in mipprune.__all__:
        assert getattr(mipprune, name) is not None
    assert {"GroupPenalty", "find_groups", "keep_within", "prune_groups", "train"} <= set(
        mipprune.__all__
    )
    assert mipprune.__version__


def test_a_penalty_in_one_s_own_loop_needs_no_solver_and_no_data():
    code = (
        "from mipprune import GroupPenalty, find_groups, keep_within, prune_groups; import sys; "
        "sys.exit(any(name in sys.modules for name in ('pyomo', 'highspy', 'datasets', 'sympy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

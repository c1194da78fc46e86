"""What README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_python_example_solves_to_optimality(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("optimal")
    assert (tmp_path / "layer.mps").stat().st_size > 0


def test_the_commands_named_exist(tmp_path):
    for command in set(re.findall(r"^    mipprune (\w+)", README, re.MULTILINE)):
        result = subprocess.run(
            [sys.executable, "-m", "mipprune", command, "--help"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, command

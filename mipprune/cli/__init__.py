"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import json
import sys

from formulations.errors import InputError
from formulations.output import explain, is_full
from mipprune.cli.app import app

# isort: off
# they register their commands, in the order of --help
from mipprune.cli import training, pruning, exact, results  # noqa: F401

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: exit code 0, 2 for wrong input (one line), 1 for a failure (one line)."""
    try:
        app()
    except InputError as error:
        print(f"mipprune: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mipprune: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        advice = ": make room, or name another place" if is_full(error) else ""
        print(f"mipprune: failed: {explain(error)}{advice}", file=sys.stderr)
        sys.exit(1)
    except (RuntimeError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"mipprune: failed: {reason}", file=sys.stderr)
        sys.exit(1)

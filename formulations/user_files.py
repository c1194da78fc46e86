"""Python files of a user's own, named on a command line as ``FILE.py:NAME``.

A file is run once for every content that it has had: what it defines is then at hand for the rest
of the process, whatever becomes of the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from formulations.errors import InputError


@dataclass(frozen=True)
class UserFile:
    """A file that has been run.

    Attributes
    ----------
    path : Path
        Absolute.
    sha256 : str
        Of its bytes, in hexadecimal digits.
    names : mapping
        What it defines.
    """

    path: Path
    sha256: str
    names: Mapping[str, Any]


_RUN: dict[tuple[Path, str], UserFile] = {}


def reference(source: str, default: str) -> tuple[Path, str] | None:
    """File and name of ``FILE.py:NAME`` or ``FILE.py``; None of anything else.

    Parameters
    ----------
    source : str
    default : str
        Name where only a file is given.

    Returns
    -------
    path : Path
        Absolute.
    name : str
    """
    found = re.fullmatch(r"(.+\.py)(?::(.*))?", source)
    return (Path(os.path.abspath(found[1])), found[2] or default) if found else None


def load(path: Path, sha256: str | None = None) -> UserFile:
    """Run a file, as Python runs a script: modules beside it can be imported.

    Parameters
    ----------
    path : Path
    sha256 : str, optional
        Of the content that is meant: if this process has run it, the file is not read again.

    Raises
    ------
    InputError
        In one line, if there is no such file, or it does not run.
    """
    path = Path(os.path.abspath(path))
    if sha256 is not None and (path, sha256) in _RUN:
        return _RUN[path, sha256]
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    now = hashlib.sha256(content).hexdigest()
    if (path, now) not in _RUN:
        _RUN[path, now] = UserFile(path, now, _run(path, content, now))
    return _RUN[path, now]


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Modules in the file's folder can be imported, as those beside a script can."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def reason(error: BaseException, path: Path) -> str:
    """What went wrong, in one line, and where in the file if it was there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(path)]  # fmt: skip
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _run(path: Path, content: bytes, sha256: str) -> Mapping[str, Any]:
    # classes and functions look up their module by its name
    module = ModuleType(f"user_file_{sha256[:16]}_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        with beside(path):
            exec(compile(content, str(path), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[module.__name__]
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from None
        if isinstance(error, (Exception, SystemExit)):
            raise InputError(f"{path} does not run: {reason(error, path)}") from None
        raise
    return vars(module)

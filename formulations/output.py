"""Files that a user names, written as a whole wherever the name leads.

Only a regular file is ever replaced, by a rename of one that was written beside it; a name may also
lead through symbolic links to a device, a pipe or a stream that is open, into which is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import tempfile
from pathlib import Path

from formulations.errors import InputError

STDOUT = Path("-")
"""The name of standard output."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# another's file, a folder in which none can be made, a file that something is mounted on
_NOT_REPLACED = (errno.EACCES, errno.EPERM, errno.EBUSY)


def write_output(path: Path, data: bytes | memoryview) -> None:
    """Write a file; of a regular one a reader sees all or what was there before.

    It keeps its mode and its owner, and a symbolic link stays one. Where the system does not allow
    to replace a file, it is written over.

    Parameters
    ----------
    path : Path
        A file, new or not; a device, a pipe, ``/dev/stdout``, or ``-`` for standard output.
    data : bytes

    Raises
    ------
    OSError
        With the path, if the system refuses; nothing is left of the attempt.
    """
    try:
        _write(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def check_output(path: Path, name: str) -> None:
    """Refuse a path to which :func:`write_output` could not write, before any work.

    Parameters
    ----------
    path : Path
    name : str
        What the path was given as, such as ``--json``.

    Raises
    ------
    InputError
    """
    if _descriptor(path) is not None:
        return
    if path.is_dir():
        raise InputError(f"{name} {path} is a folder: name a file")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise InputError(f"{name} {path}: there is no folder {_shown(folder, path)}")
    try:
        if not path.exists():
            tempfile.TemporaryFile(dir=folder).close()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(f"{name} {path} cannot be written: {error.strerror}") from None


def is_stdout(path: Path) -> bool:
    """Whether a path leads to standard output."""
    return _descriptor(path) == 1


def is_full(error: OSError) -> bool:
    """Whether the disk, or the share of it that one may use, is full."""
    return error.errno in _FULL


def explain(error: OSError, place: Path | None = None) -> str:
    """A line about what the system refused.

    Parameters
    ----------
    error : OSError
    place : Path, optional
        To name where the error names none.
    """
    reason = error.strerror or str(error) or type(error).__name__
    where = error.filename or place
    if where is None:
        return reason
    return f"cannot write {where}: {reason}" if is_full(error) else f"{where}: {reason}"


def _write(path: Path, data: bytes | memoryview) -> None:
    number = _descriptor(path)
    if number is not None:
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None:
                stream.flush()  # what was printed comes first
        with open(number, "wb", closefd=False) as file:
            file.write(data)
        return
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is None or stat.S_ISREG(old.st_mode):
        target = Path(os.path.realpath(path))
        try:
            _replace(target, data, old)
        except OSError as error:
            if old is None or error.errno not in _NOT_REPLACED:
                raise
        else:
            return
    with open(path, "wb") as file:
        file.write(data)


def _replace(target: Path, data: bytes | memoryview, old: os.stat_result | None) -> None:
    """Write beside a place and rename; as what was there, or as the umask has it."""
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # a rename would not ask
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")  # two may write at once
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:
            if old is not None:
                _inherit(handle, old)
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


def _inherit(handle: int, old: os.stat_result) -> None:
    """Owner first: a change of it takes bits from the mode."""
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(handle, old.st_uid, old.st_gid)
    if stat.S_IMODE(new.st_mode) != stat.S_IMODE(old.st_mode):
        os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _descriptor(path: Path) -> int | None:
    """The number of the open stream that a path such as ``/dev/stdout`` or ``/dev/fd/3`` means.

    A stream may be a regular file, opened by the shell that goes on writing to it: it must not be
    replaced either.
    """
    if path == STDOUT:
        return 1
    streams = os.path.realpath("/dev/fd")
    for _ in range(40):  # links, as many as Linux follows
        if path.name.isdigit() and os.path.realpath(path.parent) == streams:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _shown(folder: Path, path: Path) -> Path:
    """The folder in the user's words where there is no link in them."""
    return folder if path.is_symlink() else path.parent

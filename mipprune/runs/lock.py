"""One process at a time works in a run's folder."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from formulations.errors import InputError
from mipprune.runs.layout import RunLayout


class FolderLock:
    """A lock on a folder: a context that gives it back at its end, whether or not it was taken.

    The kernel holds it (``flock``) and lets go of it when the process dies, however it dies; the
    file in the folder stays and means nothing by itself. On NFS Linux asks the server, so that
    other machines see it; a mount with ``local_lock`` keeps it to one machine. Loading workers
    that were forked hold it too: they end some seconds after their parent was killed.

    Parameters
    ----------
    folder : Path
        Of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(RunLayout(folder).lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    @property
    def taken(self) -> bool:
        """Whether this process has it."""
        return self._lock.is_locked

    def take(self) -> None:
        """Take it, if it is not taken yet; the folder exists.

        Raises
        ------
        InputError
            If another process has it, or the folder cannot be written.
        """
        if self.taken:
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.folder} is in use by another process: wait for its end, or choose another "
                "name=NAME"
            ) from None
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror}") from None

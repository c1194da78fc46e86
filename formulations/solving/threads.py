"""One thread for the linear algebra libraries while a solver keeps the cores busy by itself.

The number of threads of a BLAS is one for the whole process. A limit that remembers the number
that it found and puts it back overlaps badly with another: of two that are entered one after the
other and left in the same order, the second found the first one's limit, and leaves it behind for
good. So all who want one thread share a limit: the first to come sets it, the last to leave
restores what was there.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController


class _SharedLimit:
    """How many are inside the limit, and what takes it back.

    One thread of its own sets and takes back: threadpoolctl lets only the thread that has set a
    number of threads change it again.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._limit = ExitStack()
        self._keeper = ThreadPoolExecutor(1, "blas-limit")

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._keeper.submit(self._set).result()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._keeper.submit(self._limit.close).result()

    def _set(self) -> None:
        self._limit.enter_context(_libraries().limit(limits=1, user_api="blas"))


@cache
def _libraries() -> ThreadpoolController:
    """The libraries that are loaded; finding them takes some milliseconds."""
    return ThreadpoolController()


_SHARED = _SharedLimit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within the context a BLAS works with one thread; contexts may nest and overlap.

    Of the process: what other threads compute in the meantime is limited too.
    """
    _SHARED.enter()
    try:
        yield
    finally:
        _SHARED.leave()

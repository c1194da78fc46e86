"""Independent layer problems on all cores, or on a cluster, through joblib."""

from __future__ import annotations

import importlib.util
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config

from formulations.errors import InputError

Found = TypeVar("Found")

LOCAL = {"processes": "loky", "threads": "threading"}


def check_backend(name: str) -> None:
    """Refuse a backend that is unknown or not installed, before any work.

    Parameters
    ----------
    name : str
        As ``backend`` of :func:`run_all`.

    Raises
    ------
    InputError
    """
    kind, _, address = name.partition(":")
    if kind not in (*LOCAL, "dask"):
        raise InputError(
            f"parallel={name} is unknown: one of {', '.join(LOCAL)}, dask, dask:ADDRESS"
        )
    if kind in LOCAL and address:
        raise InputError(f"parallel={name}: only a cluster has an address")
    if kind == "dask" and importlib.util.find_spec("distributed") is None:
        raise InputError(f"parallel={name} needs the package distributed: pip install distributed")


@contextmanager
def run_all(
    function: Callable[..., Found], calls: Iterable[tuple[Any, ...]], *, backend: str, jobs: int
) -> Iterator[Iterator[Found]]:
    """``function(*arguments)`` of every call, in their order, as soon as each is to be had.

    A context: at its end the workers are done with, whether all was drawn or not.

    Parameters
    ----------
    function : callable
        Of a module, so that a worker can import it.
    calls : iterable of tuples
        Arguments; drawn as workers get free, so that few of them are in memory at a time.
    backend : str
        ``processes`` or ``threads`` of this machine; ``dask`` (workers of its own on this machine),
        ``dask:ADDRESS`` (a scheduler that runs).
    jobs : int
        Workers on this machine; −1 for one a core.
    """
    check_backend(backend)
    kind, _, address = backend.partition(":")
    with ExitStack() as stack:
        if kind == "dask":
            stack.enter_context(_dask_client(address, jobs))
        # Ctrl-C reaches them too: it is for this process to heed
        options = {"initializer": _ignore_interrupts} if kind == "processes" else {}
        stack.enter_context(parallel_config(LOCAL.get(kind, kind), n_jobs=jobs, **options))
        pool = Parallel(return_as="generator", batch_size=1, pre_dispatch="n_jobs")
        with _broken_off():
            found = pool(delayed(function)(*arguments) for arguments in calls)
            try:
                yield found
            finally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of what was found in vain
                    found.close()  # not when it is collected: then its files in memory are left


@contextmanager
def _broken_off() -> Iterator[None]:
    """Let loky's manager end in silence where it is stopped before it has handed on a call.

    Killing the workers empties its table of calls but not its queue of their numbers: it then looks
    up a number that is gone, after all workers have been killed.
    """
    said = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        manager = args.thread is not None and args.thread.name == "ExecutorManagerThread"
        if not (manager and issubclass(args.exc_type, KeyError)):
            said(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = said


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _dask_client(address: str, jobs: int) -> AbstractContextManager[Any]:
    from dask.distributed import Client  # noqa: PLC0415 an optional package

    if not address:
        workers = None if jobs < 0 else jobs
        return Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(f"parallel=dask:{address}: no scheduler there ({error})") from None

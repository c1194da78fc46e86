"""The threads of the linear algebra libraries after limits that overlap."""

from threading import Event, Thread

import pytest
from layer_instances import layer_problem
from threadpoolctl import threadpool_info, threadpool_limits

from formulations.layer.relaxations.indicator_newton import IndicatorNewton
from formulations.solving.node import Node
from formulations.solving.threads import one_blas_thread


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def set_blas_threads(number):
    """In a thread of its own: the one that has set a number keeps others from changing it."""
    thread = Thread(target=threadpool_limits, args=(number, "blas"))
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def _two_threads():
    before = blas_threads()
    set_blas_threads(2)
    if blas_threads() != {2}:
        pytest.skip("this BLAS takes no second thread")
    yield
    set_blas_threads(max(before))


def test_the_last_to_leave_restores_what_the_first_found():
    first, second = one_blas_thread(), one_blas_thread()
    with first:
        assert blas_threads() == {1}
        second.__enter__()
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {2}


def test_relaxations_that_overlap_in_two_threads_leave_the_number_as_it_was():
    problem = layer_problem(0, groups=4)
    inside, entered = [Event(), Event()], [Event(), Event()]

    def work(number):
        engine = IndicatorNewton(problem, problem.groups, 1e-4)

        def pause():
            entered[number].set()
            assert inside[number].wait(60)

        engine.pause = pause
        engine.evaluate([Node.root(problem.groups)], float("inf"))

    threads = [Thread(target=work, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        assert entered[number].wait(60)
    for number, thread in enumerate(threads):  # the first to come leaves first
        inside[number].set()
        thread.join()
    assert blas_threads() == {2}

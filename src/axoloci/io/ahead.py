"""Work that threads do ahead of the one who takes its results, in order and with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# reading waits for a disk even where there is one core; more than eight wait for each other
N_THREADS = min(8, max(2, len(os.sched_getaffinity(0))))


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    n_threads: int = N_THREADS,
    n_ahead: int | None = None,
) -> Generator[Result, None, None]:
    """Results of a function in the order of its items, computed ahead in threads.

    An exception of the function is raised where its result would be. When the iterator is closed,
    what has not begun is left, and the threads end.

    Parameters
    ----------
    function
        Called in several threads at a time.
    items
        Taken one by one in the caller's thread.
    n_threads
        Calls at a time.
    n_ahead
        Results beyond that asked for that are computed or wait; twice the threads by default.
    """
    n_ahead = 2 * n_threads if n_ahead is None else n_ahead
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > n_ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

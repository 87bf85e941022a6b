"""Work that threads do ahead."""

from __future__ import annotations

import threading
import time

import pytest

from axoloci.io.ahead import map_ahead


def test_map_ahead__keeps_the_order_whatever_ends_first() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.02 * (number % 2 == 0))
        return number**2

    assert list(map_ahead(slow_if_even, range(12), n_threads=4)) == [k**2 for k in range(12)]


def test_map_ahead__works_ahead_but_not_too_far_and_ends_when_closed() -> None:
    asked: list[int] = []
    before = threading.active_count()
    results = map_ahead(asked.append, range(11), n_threads=1, n_ahead=2)
    next(results)
    deadline = time.monotonic() + 5
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert asked == [0, 1, 2]
    results.close()
    assert threading.active_count() == before


def test_map_ahead__raises_where_the_result_would_be() -> None:
    results = map_ahead(lambda number: 6 // (2 - number), range(5), n_threads=2)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)

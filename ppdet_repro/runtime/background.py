"""Work in threads beside the network: reading the next batches, and writing the last results."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Deque, Iterator, TypeVar

T = TypeVar("T")

END = object()


def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The items, produced by a thread that is at most `depth` items ahead. Its exceptions are raised here."""
    pool = ThreadPoolExecutor(1)
    try:
        pending: Deque[Future[Any]] = deque(pool.submit(next, items, END) for _ in range(depth))
        while (item := pending.popleft().result()) is not END:
            pending.append(pool.submit(next, items, END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class BackgroundCalls:
    """Calls functions in a thread, in order, with at most `depth` of them waiting.

    Leaving the `with` statement waits for the remaining calls, or drops them after an exception. An exception of a
    function is raised by a later call, or on leaving.
    """

    def __init__(self, depth: int = 4):
        self.depth = depth
        self._pool = ThreadPoolExecutor(1)
        self._pending: Deque[Future[object]] = deque()

    def __enter__(self) -> BackgroundCalls:
        return self

    def __call__(self, function: Callable[[], object]) -> None:
        """Call the function later. Waits while `depth` calls are pending."""
        while len(self._pending) >= self.depth:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(function))

    def __exit__(self, kind: object, *exception: object) -> None:
        try:
            while kind is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

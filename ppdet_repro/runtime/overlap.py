"""Work beside the network: the next batches are prepared, and the last results written, while it computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterator, TypeVar

T = TypeVar("T")

END = object()


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The items, made by a thread that is up to `depth` of them ahead. What making one raises is raised here."""
    pool = ThreadPoolExecutor(1)
    try:
        pending: Deque[Future] = deque(pool.submit(next, items, END) for _ in range(depth))
        while (item := pending.popleft().result()) is not END:
            pending.append(pool.submit(next, items, END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Calls functions one after the other in a thread, at most `depth` of them waiting.

    On leaving the `with` all are done, or the rest is dropped after an error. What a function raises is raised
    at a later call or on leaving.
    """

    def __init__(self, depth: int = 4):
        self.depth = depth
        self._pool = ThreadPoolExecutor(1)
        self._pending: Deque[Future] = deque()

    def __enter__(self) -> Behind:
        return self

    def __call__(self, work: Callable[[], object]) -> None:
        """Do the work later; waits while too much of it is waiting."""
        while len(self._pending) >= self.depth:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work))

    def __exit__(self, kind: object, *exception: object) -> None:
        try:
            while kind is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

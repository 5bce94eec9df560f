"""The limits of requests, and the answer to a request that exceeds one."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of requests."""

    max_bytes: int = 10 * 2**20  # of the upload
    max_pixels: int = 25_000_000  # of the decoded image
    timeout: float = 30.0  # seconds of an upload, and seconds from its end until the answer
    queue: int = 8  # requests that may be waiting or running


class Refusal(Exception):
    """The reason why a request is refused, and the HTTP status for it."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status

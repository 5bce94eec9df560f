"""Receives the bodies of requests, with limits of size, time and memory."""

from __future__ import annotations

import asyncio
from typing import Dict

from starlette.requests import ClientDisconnect, Request

from ppdet_repro.serve.limits import Limits, Refusal

TOGETHER = 8  # uploads of the largest size whose bytes are in memory while they come


class Uploads:
    """The uploads that are being received. If they are too large together, the oldest is given up for a newer one."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._most = TOGETHER * limits.max_bytes
        self._open: Dict[int, bytearray] = {}  # by number, in order of arrival
        self._count = 0

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Refusal: It is not the bytes of a file themselves, is too large, takes too long, or is given up.
        """
        check_headers(request, self.limits.max_bytes)
        self._count += 1
        number = self._count
        self._open[number] = bytearray()
        try:
            return await asyncio.wait_for(self._receive(request, number), self.limits.timeout)
        except asyncio.TimeoutError as error:
            raise Refusal(408, f"the upload took more than {self.limits.timeout:g} seconds") from error
        except ClientDisconnect as error:
            raise Refusal(400, "the upload ended early") from error
        finally:
            self._open.pop(number, None)

    async def _receive(self, request: Request, number: int) -> bytes:
        data = self._open[number]
        async for chunk in request.stream():  # the last chunk is empty
            if number not in self._open:
                raise Refusal(429, "too many uploads at once; try again later")
            if len(data) + len(chunk) > self.limits.max_bytes:
                raise too_large(self.limits.max_bytes)
            data += chunk
            while sum(map(len, self._open.values())) > self._most:
                self._open.pop(next(iter(self._open))).clear()
        return bytes(data)


def check_headers(request: Request, max_bytes: int) -> None:
    """Refusal if the headers announce a body that is too large, compressed, or a form."""
    headers = request.headers
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large(max_bytes)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "the body is compressed (content-encoding); send the bytes of the image themselves")
    if headers.get("content-type", "").lower().startswith("multipart/"):
        raise Refusal(415, "the body is a form; send the bytes of the image themselves (curl --data-binary @FILE)")


def too_large(max_bytes: int) -> Refusal:
    return Refusal(413, f"the upload is larger than {max_bytes} bytes")

"""The server's connections: how many there may be, and how long one may wait for its client.

uvicorn closes a connection that is idle after an answer. It waits without an end for the rest of a header, for a body
that the application does not read, and for a client that does not read its answer. Nor does it limit connections per
address. `GuardedProtocol` adds these limits.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

PIECE = 16 * 1024  # bytes; h11 refuses a header that is still incomplete after 16 KB, and checks it after each piece
FREE_LINES = 200  # of a body in chunks, each of which has two lines
BYTES_PER_LINE = 256  # at least, after these: parsing a line takes 10 us or more
LINGER = 64 << 20  # bytes that are taken after an answer before the connection is cut


class Patience(NamedTuple):
    """How long a connection may stay in a state, in seconds."""

    header: float = 10.0  # until the header of a request is complete
    answer: float = 70.0  # from then until the answer is sent; the application has shorter limits of its own
    reading: float = 10.0  # while the client reads nothing and the memory for its answers is full
    closing: float = 5.0  # until the client has taken the last bytes before its connection is cut


class Connections:
    """The open connections. Of those that wait for their client, there are at most `most`, and `most_per_address` of
    one address. A new one takes the place of the one that has waited longest, so that clients that hold connections
    without using them lock nobody out."""

    def __init__(self, most: int, most_per_address: int):
        self.most = most
        self.most_per_address = most_per_address
        self.open: Dict[GuardedProtocol, None] = {}  # in order of opening

    def admit(self, new: GuardedProtocol) -> None:
        """Add a connection, and close another if there are too many."""
        waiting = [connection for connection in self.open if connection.waits_for_client()]
        self.open[new] = None
        same = [connection for connection in waiting if connection.address == new.address]
        if len(same) >= self.most_per_address:
            self._close_one(same)
        elif len(waiting) >= self.most:
            ((address, _),) = Counter(connection.address for connection in waiting).most_common(1)
            self._close_one([connection for connection in waiting if connection.address == address])

    def remove(self, connection: GuardedProtocol) -> None:
        self.open.pop(connection, None)

    def _close_one(self, waiting: List[GuardedProtocol]) -> None:
        """Close the one without a request that has waited longest; if all have sent requests, the oldest of these."""
        chosen = min(waiting, key=lambda connection: (connection.has_request(), connection.since))
        self.remove(chosen)
        chosen.cut()


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 connection with limits of time for each of its states.

    Where uvicorn closes it although the client still sends, it takes what comes for `patience.closing` seconds: if a
    connection is closed with bytes that nobody has read, the system may drop the answer before the client reads it.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: Dict[str, Any],
        _loop: Optional[asyncio.AbstractEventLoop] = None,
        *,
        guarded: Connections,
        patience: Patience,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.guarded = guarded
        self.patience = patience
        self.address = ""
        self.since = self.loop.time()  # start of the present wait for the client
        self._timer: Optional[asyncio.TimerHandle] = None
        self._known_cycle: object = None
        self._lingers = False
        self._lines, self._bytes = 0, 0  # of the body that comes, or of what comes after the answer

    def has_request(self) -> bool:
        """Whether the header of a request has come that is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def waits_for_client(self) -> bool:
        """Whether the client must send or read something before the server can go on."""
        return not self.has_request() or self.cycle.more_body or self.flow.write_paused

    def cut(self) -> None:
        """Close the connection, without waiting for its client."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._socket.close()

    def close(self) -> None:
        """Close the connection after the client has taken the answer."""
        if self.is_closing():
            return
        if self.conn.their_state not in (h11.SEND_BODY, h11.ERROR) and not self.conn.trailing_data[0]:
            self._socket.close()
            return
        self._lingers, self._bytes = True, 0
        self._socket.write_eof()
        self.flow.resume_reading()
        self._wait(self.patience.closing)

    def is_closing(self) -> bool:
        """Whether no more is sent."""
        return self._lingers or self._socket.is_closing()

    # What asyncio and uvicorn call -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._socket = transport
        self.transport = cast(asyncio.Transport, ClosingTransport(transport, self))
        self.address = self.client[0] if self.client else ""
        self._wait()
        self.guarded.admit(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.guarded.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            if self._lingers:
                self._bytes += len(piece)
                if self._bytes > LINGER:
                    self.transport.abort()
            elif self._is_tedious(piece):
                self._refuse(400, "the chunks of the body are too small")
            elif not self.is_closing():
                super().data_received(piece)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not self._known_cycle:  # a request has begun
            self._known_cycle = self.cycle
            self._lines = self._bytes = 0
            self._wait()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not a valid HTTP request, or its header is longer than 16 KB")

    def _is_tedious(self, piece: bytes) -> bool:
        """Whether a body consists of so many small chunks that parsing it takes long."""
        if self.conn.their_state is not h11.SEND_BODY or not any(
            name == b"transfer-encoding" for name, _ in self.headers
        ):
            return False
        self._lines += piece.count(b"\r\n")
        self._bytes += len(piece)
        return self._lines > FREE_LINES and self._bytes < BYTES_PER_LINE * self._lines

    # Ends --------------------------------------------------------------------------------------------------------

    def _wait(self, seconds: Optional[float] = None) -> None:
        """Give up after the time of the present state, or after `seconds`."""
        if seconds is None and self.flow.write_paused:
            seconds = self.patience.reading
        elif seconds is None:
            seconds = self.patience.answer if self.has_request() else self.patience.header
        if self._timer is not None:
            self._timer.cancel()
        self.since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """The time of the present state is over."""
        if self.is_closing() or self.has_request():
            self.transport.abort()
        elif self.conn.trailing_data[0]:
            self._refuse(408, f"the header of the request took more than {self.patience.header:g} seconds")
        else:
            self.close()
            self._wait(self.patience.closing)

    def _refuse(self, status: int, reason: str) -> None:
        """Answer, if no other answer has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"detail": reason}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            is_head = self.has_request() and self.scope["method"] == "HEAD"
            events = [
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=b"" if is_head else body),
                h11.EndOfMessage(),
            ]
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        if self.has_request():
            self.cycle.disconnected = True  # what the application sends from now on is dropped
            self.cycle.message_event.set()
        self.close()
        self._wait(self.patience.closing)


class ClosingTransport:
    """A transport that closes as its connection wants."""

    def __init__(self, transport: asyncio.Transport, connection: GuardedProtocol):
        self._transport = transport
        self.close = connection.close
        self.is_closing = connection.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

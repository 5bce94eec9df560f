"""Clients that hold connections, are slow, send nonsense or do not read, with real sockets; times are small."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
from live import Live, answer, answers, get, image, is_closed, post, until

from ppdet_repro.serve.connections import Connections, Patience
from ppdet_repro.serve.limits import Limits


@pytest.fixture
def live():
    """Creates servers. None may have logged an error at the end, and all answer until then."""
    servers = []

    def make(**options):
        servers.append(Live(**options))
        return servers[-1]

    yield make
    for server in servers:
        server.engine.gate.set()
        assert server.ask(get())[0] == 200
        server.stop()
        assert server.errors == []


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


# Many connections ------------------------------------------------------------------------------------------------


def test_idle_connections_lock_nobody_out(live, stack):
    server = live(patience=Patience())
    for _ in range(70):
        stack.enter_context(server.connect())
    assert server.ask(get()) == (200, b'{"status":"ok"}')
    assert server.ask(post(image()))[0] == 200
    assert server.open <= 33


def test_requests_that_are_processed_are_not_closed_for_new_connections(live, stack):
    server = live(patience=Patience(), connections_per_address=4)
    server.engine.gate.clear()
    first = stack.enter_context(server.connect())
    first.sendall(post(image()))
    assert until(lambda: any(not c.waits_for_client() for c in list(server.server.server_state.connections)))
    for _ in range(20):
        stack.enter_context(server.connect())
    assert server.ask(get())[0] == 200
    server.engine.gate.set()
    assert answer(first)[0] == 200


class Held:
    """A connection that waits for its client."""

    def __init__(self, address, since, has_request=False):
        self.address, self.since, self._has_request = address, since, has_request
        self.is_cut = False

    def has_request(self):
        return self._has_request

    def waits_for_client(self):
        return True

    def cut(self):
        self.is_cut = True


def test_the_longest_idle_connection_of_the_same_address_is_closed_first():
    connections = Connections(most=10, most_per_address=2)
    upload, idle, other = Held("a", 1, has_request=True), Held("a", 2), Held("b", 0)
    for held in (upload, idle, other, Held("a", 3)):
        connections.admit(held)
    assert (upload.is_cut, idle.is_cut, other.is_cut) == (False, True, False)
    connections.admit(Held("a", 4))
    assert not upload.is_cut  # the other idle one was closed


def test_the_address_with_the_most_connections_makes_room():
    connections = Connections(most=4, most_per_address=3)
    alone, many = Held("a", 0), [Held("b", i) for i in range(3)]
    for held in (alone, *many, Held("c", 9)):
        connections.admit(held)
    assert [held.is_cut for held in (alone, *many)] == [False, True, False, False]
    assert len(connections.open) == 4


# Slow clients ----------------------------------------------------------------------------------------------------


def test_a_connection_without_a_request_is_closed(live):
    with live().connect() as connection:
        assert connection.recv(1000) == b""


def test_a_header_that_comes_slowly_is_refused(live):
    with live().connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX: ")
        stop = drip(connection)
        status, body = answer(connection)
        assert status == 408 and json.loads(body)["detail"] == "the header of the request took more than 1 seconds"
        assert is_closed(connection)
        stop.set()


def test_a_second_header_that_comes_slowly_is_refused_too(live):
    with live().connect() as connection:
        connection.sendall(get() + b"GET /heal")
        assert answer(connection)[0] == 200
        assert is_closed(connection)


def test_a_body_that_comes_slowly_is_refused(live):
    with live(limits=Limits(timeout=0.5)).connect() as connection:
        connection.sendall(post(b"", length=1000))
        stop = drip(connection)
        status, body = answer(connection)
        assert (status, json.loads(body)["detail"]) == (408, "the upload took more than 0.5 seconds")
        assert is_closed(connection)
        stop.set()


def test_a_body_that_nobody_wants_does_not_hold_the_connection(live):
    with live().connect() as connection:
        connection.sendall(get(headers="Content-Length: 1000000\r\n"))
        stop = drip(connection)
        assert answer(connection)[0] == 200
        assert is_closed(connection)
        stop.set()


def drip(connection):
    """Send a byte now and then in the background, until the returned event is set."""
    stop = threading.Event()

    def send():
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                connection.sendall(b"a")

    threading.Thread(target=send, daemon=True).start()
    return stop


def test_a_client_that_reads_nothing_is_cut_off(live):
    server = live()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", server.port))
        with pytest.raises(ConnectionError):
            while True:  # until the server accepts no more, because its answers are not read, and closes the connection
                connection.sendall(get("/openapi.json") * 100)
    assert until(lambda: server.open == 0)


def test_a_client_that_leaves_during_its_upload_is_forgotten(live):
    server = live()
    with server.connect() as connection:
        connection.sendall(post(b"abc", length=1000))
    with server.connect() as connection:
        connection.sendall(post(image(), length=50))  # the rest is not a request
        assert [status for status, _ in answers(connection, 2)] == [415, 400]
    assert until(lambda: server.open == 0)


@pytest.mark.parametrize("ending", ["", "Connection: close\r\n"])
def test_a_client_that_sends_too_much_reads_why(live, ending):
    """Also if it asks only after it has sent everything, and the server closes the connection."""
    server = live(limits=Limits(max_bytes=1000))
    for _ in range(3):
        status, body = server.ask(post(b"\0" * 5_000_000, ending))
        assert (status, json.loads(body)["detail"]) == (413, "the upload is larger than 1000 bytes")
    assert until(lambda: server.open == 0)


# Nonsense --------------------------------------------------------------------------------------------------------

BROKEN = "this is not a valid HTTP request, or its header is longer than 16 KB"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500,
        b"GET / HTTP/1.1\r\n\r\n",
        get(headers="Host: b\r\n"),
        get(headers="Content-Length: -1\r\n"),
        get(headers="Content-Length: 1\r\nContent-Length: 2\r\n"),
        get(headers="X: " + "a" * 200_000 + "\r\n"),
        get(headers="X: " + "a" * 40_000 + "\r\n"),
        get(headers="X: a\r\n" * 40_000),
    ],
    ids=[
        "tls",
        "no host",
        "two hosts",
        "negative length",
        "two lengths",
        "long header",
        "header of 40 KB",
        "many headers",
    ],
)
def test_what_is_not_http_gets_an_answer_of_one_line(live, request_bytes):
    status, body = live().ask(request_bytes)
    assert (status, json.loads(body)) == (400, {"detail": BROKEN})


@pytest.mark.parametrize(
    "path, status", [("/health", 405), ("/api/detect", 400)], ids=["answered before", "not answered"]
)
def test_a_broken_chunk_ends_the_connection(live, path, status):
    with live().connect() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        time.sleep(0.1)
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"zz\r\nabc")
        assert answer(connection)[0] == status
        assert is_closed(connection)


def test_a_body_of_tiny_chunks_is_refused(live):
    server = live()
    head = b"POST /api/detect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    data = cv2.imencode(".bmp", data)[1].tobytes()
    chunks = b"".join(b"200\r\n%s\r\n" % data[i : i + 512] for i in range(0, len(data) - 512, 512))
    last = data[len(chunks) // (512 + 7) * 512 :]
    chunks += b"%x\r\n%s\r\n" % (len(last), last)
    assert server.ask(head + chunks + b"0\r\n\r\n")[0] == 200
    with server.connect() as connection:
        connection.sendall(head)
        connection.sendall(b"1\r\na\r\n" * 100_000)
        status, body = answer(connection)
    assert (status, json.loads(body)["detail"]) == (400, "the chunks of the body are too small")


def test_nonsense_after_a_request_without_a_body_ends_the_connection(live):
    with live().connect() as connection:
        connection.sendall(b"HEAD /page.css HTTP/1.0\r\n\r\n" + b"nonsense\r\n\r\n" * 2000)
        assert is_closed(connection)


def test_an_upgrade_is_not_followed(live):
    assert (
        live().ask(get(headers="Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"))[0] == 200
    )

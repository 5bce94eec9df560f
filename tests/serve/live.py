"""A server with real sockets in a thread, on an engine that needs no Paddle."""

from __future__ import annotations

import logging
import socket
import threading
import time
from functools import partial

import cv2
import h11
import numpy as np

from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.pipeline import Pipeline
from ppdet_repro.serve.app import create_app
from ppdet_repro.serve.connections import Patience
from ppdet_repro.serve.decoding_process import decode
from ppdet_repro.serve.detector import QueuedDetector
from ppdet_repro.serve.limits import Limits
from ppdet_repro.serve.server import make_server

LABELS = ["cat", "<b>dog</b>"]
LIMITS = Limits()
PATIENCE = Patience(header=1, answer=20, reading=1, closing=1)


class Fake:
    """An engine that finds two boxes on every image, and waits for `gate`."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()

    def run(self, inputs):
        assert self.gate.wait(10)
        rows = [[0, 0.4, 1, 2, 3, 4], [1, 0.9, 5, 6, 20.5, 30], [-1, 1, 0, 0, 0, 0]]
        return np.array(rows, np.float32), np.array([3], np.int32)


def image(height=40, width=60, suffix=".png"):
    return cv2.imencode(suffix, np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def fake_detector(engine, limits):
    """A detector that decodes in this process."""
    pipeline = Pipeline(from_list([{"type": "Permute"}]), engine)
    return QueuedDetector(pipeline, LABELS, limits, partial(decode, max_pixels=limits.max_pixels))


class Live:
    """A server on a free port of 127.0.0.1. `errors` are the messages that it logs."""

    def __init__(self, limits=LIMITS, connections_per_address=32, patience=PATIENCE):
        self.engine = Fake()
        self.errors = []
        app = create_app(fake_detector(self.engine, limits), "YOLOF", 0.5)
        self.server = make_server(app, "127.0.0.1", 0, limits, connections_per_address, patience)
        self.handler = logging.Handler(logging.ERROR)
        self.handler.emit = lambda record: self.errors.append(record.getMessage())
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).addHandler(self.handler)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        assert until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def open(self):
        """The number of open connections."""
        return len(self.server.server_state.connections)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, request):
        """The status and body of the answer to the bytes of a request."""
        with self.connect() as connection:
            connection.sendall(request)
            return answer(connection)

    def stop(self):
        self.engine.gate.set()
        self.server.should_exit = True
        self.thread.join(20)
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).removeHandler(self.handler)
        assert not self.thread.is_alive()


def post(body, headers="", length=None):
    """The bytes of a request for detection."""
    length = len(body) if length is None else length
    return f"POST /api/detect HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{headers}\r\n".encode() + body


def get(path="/health", headers=""):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()


def answer(connection):
    """The status and body of the next answer on a connection; the status is None if it is closed without one."""
    return answers(connection, 1)[0]


def answers(connection, count):
    """The next answers on a connection."""
    client, found = h11.Connection(h11.CLIENT), []
    for i in range(count):
        if i:
            client.start_next_cycle()
        client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        found.append(_answer(connection, client))
    return found


def _answer(connection, client):
    status, body = None, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            try:
                client.receive_data(connection.recv(1 << 16))
            except ConnectionError:
                return None, b""
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            return status, body


def is_closed(connection):
    """Whether the server closes the connection soon; what it sends before does not matter."""
    try:
        while connection.recv(1 << 16):
            pass
        return True
    except ConnectionError:
        return True
    except socket.timeout:
        return False


def until(condition, seconds=20):
    """Wait until a condition is true. Returns whether it is."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()

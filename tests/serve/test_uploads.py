"""Bodies that are too large, lie about their size, are forms or compressed, or come in too many at once."""

from __future__ import annotations

import contextlib
import gzip
import json

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
from live import Live, answer, get, image, post, until

from ppdet_repro.serve.limits import Limits
from ppdet_repro.serve.uploads import TOGETHER

CHUNKED = b"POST /api/detect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def live():
    server = Live(limits=Limits(max_bytes=1000, timeout=10))
    yield server
    assert server.ask(get())[0] == 200
    server.stop()
    assert server.errors == []


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_a_body_in_chunks_is_read(live):
    data = image()
    assert live.ask(CHUNKED + chunk(data[:50]) + chunk(data[50:]) + b"0\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"", length=1001),
        post(b"", length=10**19),
        post(b"", "Expect: 100-continue\r\n", length=1001),
        post(b"\0" * 1001),
        CHUNKED + chunk(b"\0" * 100) * 11,
        CHUNKED + b"ffffffff\r\n" + b"\0" * 2000,
    ],
    ids=["announced", "20 digits", "before it is sent", "sent", "chunks", "a large chunk"],
)
def test_a_body_above_the_limit_is_refused_before_it_has_come(live, request_bytes):
    status, body = live.ask(request_bytes)
    assert (status, json.loads(body)["detail"]) == (413, "the upload is larger than 1000 bytes")


def test_a_form_is_refused(live):
    form = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 10 + b"--b--"
    status, body = live.ask(post(form, "Content-Type: multipart/form-data; boundary=b\r\n"))
    assert status == 415 and "curl --data-binary @FILE" in json.loads(body)["detail"]


def test_a_compressed_body_is_not_expanded(live):
    status, body = live.ask(post(gzip.compress(image()), "Content-Encoding: gzip\r\n"))
    assert status == 415 and "compressed" in json.loads(body)["detail"]


def test_the_oldest_of_too_many_uploads_is_given_up(live):
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(live.connect()) for _ in range(TOGETHER + 1)]
        for i, upload in enumerate(uploads):
            upload.sendall(post(b"x" * 990, length=1000))
            connections = live.server.server_state.connections
            assert until(lambda i=i, known=connections: sum(c.has_request() for c in list(known)) == i + 1)
        for upload in uploads:
            upload.sendall(b"x" * 10)
        statuses = [answer(upload)[0] for upload in uploads]
    assert statuses == [429] + [415] * TOGETHER

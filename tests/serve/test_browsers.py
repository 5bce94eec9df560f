"""What a browser may do for pages of other sites, and what it is told about the page."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient
from live import Fake, fake_detector, image

from ppdet_repro.serve.app import create_app
from ppdet_repro.serve.browsers import names_of
from ppdet_repro.serve.limits import Limits

FRIEND = "https://example.org"


@pytest.fixture(scope="module")
def client():
    app = create_app(fake_detector(Fake(), Limits()), "YOLOF", 0.5, names_of("127.0.0.1"), [FRIEND])
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/model", "/health", "/absent"])
def test_no_code_from_elsewhere_runs_in_the_page_and_no_page_may_frame_it(client, path):
    headers = client.get(path).headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert "unsafe" not in headers["content-security-policy"]
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),  # curl
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "https://127.0.0.1:8000"}, 200),  # a proxy has removed the encryption
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:9000", "sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": FRIEND, "sec-fetch-site": "cross-site"}, 200),
        ({"origin": FRIEND + ".evil.example", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_a_page_of_another_origin_can_send_nothing(client, headers, status):
    answer = client.post("/api/detect", content=image(), headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["detail"] == "the request comes from a page of another site; see --allow_origin"


def test_an_allowed_page_can_ask_and_read(client):
    wants = {
        "origin": FRIEND,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    assert client.options("/api/detect", headers=wants).headers["access-control-allow-origin"] == FRIEND
    answer = client.post("/api/detect", content=image(), headers={"origin": FRIEND})
    assert answer.headers["access-control-allow-origin"] == FRIEND
    for origin in ("http://evil.example", "null"):
        answers = (
            client.options("/api/detect", headers={**wants, "origin": origin}),
            client.get("/api/model", headers={"origin": origin}),
        )
        assert all("access-control-allow-origin" not in answer.headers for answer in answers)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "localhost:8000", "LOCALHOST", "[::1]:8000", "example.org"]
)
def test_names_of_this_machine_and_of_allowed_pages_are_answered(client, host):
    assert client.get("/api/model", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]", "[", ":"])
def test_another_name_is_refused_because_it_may_be_that_of_another_page(client, host):
    answer = client.get("/api/model", headers={"host": host})
    assert answer.status_code == 400 and "another name" in answer.json()["detail"]
    assert client.get("/health", headers={"host": host}).json() == {"status": "ok"}


def test_only_a_server_for_this_machine_knows_its_names():
    assert names_of("127.0.0.1") == names_of("localhost") == names_of("::1") == ["127.0.0.1", "::1", "localhost"]
    assert "127.0.0.2" in names_of("127.0.0.2")
    assert names_of("0.0.0.0") == names_of("192.168.1.5") == names_of("detector.example.org") == []
    with TestClient(create_app(fake_detector(Fake(), Limits()), "YOLOF", 0.5)) as client:
        assert client.get("/api/model", headers={"host": "detector.example.org"}).status_code == 200
        assert client.post("/api/detect", content=image(), headers={"origin": "http://evil.example"}).status_code == 403

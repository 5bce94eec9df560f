"""tools/serve.py: the JSON API, its limits, and the page; `test_in_browser.py` tests the page in a browser.

Connections, browsers' rules, uploads and the decoding process have files of their own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import pytest
from paths import ROOT

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient
from live import LABELS, Fake, fake_detector, image
from png_bomb import png_bomb
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.serve.app import FOLDER, PAGE, create_app
from ppdet_repro.serve.limits import Limits

PARTS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


@pytest.fixture
def served():
    """Creates a client of an application with the given limits, and its engine."""
    clients = []

    def make(**limits):
        engine = Fake()
        client = TestClient(create_app(fake_detector(engine, Limits(**limits)), "YOLOF", 0.5)).__enter__()
        clients.append((client, engine))
        return client, engine

    yield make
    for client, engine in clients:
        engine.gate.set()
        client.__exit__(None, None, None)


# The API --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_an_image_gets_its_boxes_in_order_of_score(served, suffix):
    client, _ = served()
    answer = client.post("/api/detect?threshold=0.3", content=image(suffix=suffix))
    assert answer.status_code == 200
    found = answer.json()
    assert (found["width"], found["height"]) == (60, 40)
    best, other = found["boxes"]
    assert (best["class_id"], best["name"], best["box"]) == (1, "<b>dog</b>", [5, 6, 20.5, 30])
    assert best["score"] == pytest.approx(0.9) and other["name"] == "cat"
    assert set(found["milliseconds"]) == {"preprocess", "inference", "postprocess"}


def test_boxes_below_the_threshold_are_not_returned(served):
    client, _ = served()
    assert len(client.post("/api/detect", content=image()).json()["boxes"]) == 1  # the default, 0.5
    assert client.post("/api/detect?threshold=0.95", content=image()).json()["boxes"] == []


def test_the_schema_is_documented_and_nothing_is_loaded_from_elsewhere(served):
    client, _ = served()
    schema = client.get("/openapi.json").json()
    detect = schema["paths"]["/api/detect"]["post"]
    assert "application/octet-stream" in detect["requestBody"]["content"]
    assert {"200", "400", "403", "408", "413", "415", "422", "429", "504"} <= set(detect["responses"])
    assert set(schema["components"]["schemas"]["Box"]["properties"]) == {"class_id", "name", "score", "box"}
    assert {name for name, _ in PAGE.values()} == {path.name for path in FOLDER.iterdir() if path.suffix[1:] in PARTS}
    for path, (name, media_type) in PAGE.items():
        answer = client.get(path)
        text = answer.text
        assert answer.headers["content-type"].split(";")[0] == media_type == PARTS[name.rpartition(".")[2]]
        assert text == (FOLDER / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|@import|innerHTML|<style|style=|<script>|\bon\w+=", text)
    assert re.findall(r"(?:src|href)=\"(.*?)\"", client.get("/").text) == ["data:,", "page.css", "page.js"]
    assert client.get("/docs").status_code == 404  # FastAPI's own page loads scripts from a CDN
    assert client.get("/api/model").json()["classes"] == LABELS


# Limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, limits, status, reason",
    [
        (b"", {}, 400, "the request has no body"),
        (b"not an image", {}, 415, "the upload is not an image"),
        (b"GIF89a" + b"\0" * 50, {}, 415, "the upload is not an image"),
        (image()[:-20], {}, 415, "the upload is"),
        (image(suffix=".jpg")[:-20], {}, 415, "the upload is cut off"),
        (image(), {"max_bytes": 50}, 413, "the upload is larger than 50 bytes"),
        (image(40, 60), {"max_pixels": 2399}, 413, "the image is 60 x 40 pixels"),
        (png_bomb(60000, 60000), {}, 413, "the image is 60000 x 60000 pixels; at most 25 million"),
    ],
)
def test_a_bad_upload_is_refused(served, body, limits, status, reason):
    client, _ = served(**limits)
    answer = client.post("/api/detect", content=body)
    assert answer.status_code == status and answer.json()["detail"].startswith(reason)


def test_an_image_at_the_limits_is_accepted(served):
    client, _ = served(max_bytes=len(image()), max_pixels=2400)
    assert client.post("/api/detect", content=image()).status_code == 200


@pytest.mark.parametrize("threshold", ["2", "-1", "high"])
def test_a_wrong_threshold_is_refused(served, threshold):
    client, _ = served()
    assert client.post(f"/api/detect?threshold={threshold}", content=image()).status_code == 422


def test_a_full_queue_refuses_and_serves_again_when_it_is_empty(served):
    client, engine = served(queue=2)
    engine.gate.clear()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post("/api/detect", content=image()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not answers and time.monotonic() < deadline:  # two wait for the engine, the third is refused
        time.sleep(0.01)
    assert [answer.status_code for answer in answers] == [429] and answers[0].headers["retry-after"] == "1"
    engine.gate.set()
    for thread in threads:
        thread.join(10)
    assert [answer.status_code for answer in answers] == [429, 200, 200]
    assert client.post("/api/detect", content=image()).status_code == 200


def test_an_answer_that_takes_too_long_is_504_and_the_next_one_is_not(served):
    client, engine = served(timeout=0.1)
    engine.gate.clear()
    answer = client.post("/api/detect", content=image())
    assert answer.status_code == 504 and answer.json()["detail"] == "no answer within 0.1 seconds"
    engine.gate.set()
    time.sleep(0.1)
    assert client.post("/api/detect", content=image()).status_code == 200


# The command ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """tools/serve.py in a process with a small model: its address, and the folder."""
    pytest.importorskip("uvicorn")
    import socket

    folder = tmp_path_factory.mktemp("serve")
    write_config(folder, write_images(folder / "data", count=1))
    exported = export_model(tiny_model(folder / "tiny.yml"), load_config(folder / "tiny.yml"), folder / "export")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "tools" / "serve.py"), f"--model_dir={exported}", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}", folder
    finally:
        process.terminate()
        process.wait(10)


def wait_for(client, url):
    import httpx

    deadline = time.monotonic() + 60
    while True:
        try:
            return client.get(f"{url}/api/model")
        except httpx.ConnectError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)


def test_the_command_serves_an_exported_model(server):
    import httpx

    url, folder = server
    with httpx.Client(timeout=30) as client:
        assert wait_for(client, url).json()["classes"] == ["square", "disc"]
        answer = client.post(f"{url}/api/detect?threshold=0", content=(folder / "data/images/000.png").read_bytes())
        assert answer.status_code == 200 and answer.json()["boxes"]
        assert client.post(f"{url}/api/detect", content=b"text").status_code == 415


def test_without_a_model_the_command_ends_with_an_error_of_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "serve.py"), f"--model_dir={tmp_path / 'absent'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "absent is not a folder" in done.stderr and "Traceback" not in done.stderr

"""The page of tools/serve.py in headless Chromium. Without it, or without Playwright, the tests are skipped:

pip install playwright, and install chromium or google-chrome
"""

from __future__ import annotations

import base64
import json
import shutil
import zipfile

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from live import Live, image
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def live():
    live = Live()  # finds a cat with score .4 and a dog with .9 on every image
    yield live
    live.stop()


@pytest.fixture
def page(browser, live):
    """The page, with the addresses that it asked for and its errors as `asked` and `errors`."""
    page = browser.new_page(viewport={"width": 1300, "height": 800})
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.url_of_server = f"http://127.0.0.1:{live.port}"
    page.goto(page.url_of_server)
    page.locator("#about", has_text="2 classes").wait_for()
    yield page
    page.close()


def file(name, **kwargs):
    return {"name": name, "mimeType": "image/png", "buffer": image(**kwargs)}


def rows(page):
    return page.locator("#boxes tbody tr").all_inner_texts()


def pixels(page):
    """The canvas after it is drawn, [H, W, 4]."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    address = page.evaluate("() => document.getElementById('picture').toDataURL()")
    return cv2.imdecode(np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)


def test_several_pictures_and_the_threshold_without_a_new_request(page):
    page.locator("#file").set_input_files([file("one.png"), file("two.png", height=80, width=50)])
    page.locator("#pictures .state", has_text="1 object").nth(1).wait_for()
    assert page.locator("#pictures .name").all_inner_texts() == ["one.png", "two.png"]
    page.locator("#status", has_text="Picture 1 of 2: 1 object, ").wait_for()  # 1 object, not 1 objects
    assert rows(page) == ["<b>dog</b>\t0.900\t5.0\t6.0\t20.5\t30.0"]
    requests = len(page.asked)
    page.locator("#threshold").fill("0.3")
    page.locator("#status", has_text="2 objects").wait_for()
    assert len(rows(page)) == 2 and page.locator("#pictures .state").all_inner_texts() == ["2 objects"] * 2
    page.locator("#threshold").fill("0.95")
    page.locator("#status", has_text="0 objects").wait_for()
    assert rows(page) == [] and len(page.asked) == requests
    assert sum("api/detect" in address for address in page.asked) == 2
    assert all(address.startswith((page.url_of_server, "blob:", "data:")) for address in page.asked)
    assert page.errors == []


def test_the_canvas_has_the_picture_with_boxes_and_zooms(page):
    page.locator("#file").set_input_files(file("one.png"))
    page.locator("#status", has_text="1 object").wait_for()
    before = pixels(page)
    # the picture is gray, 90 in all channels; 60 x 40 pixels, enlarged 8 times at most
    gray = (before[..., :3] == 90).all(-1) & (before[..., 3] == 255)
    assert 8 * 8 * 60 * 40 * 0.7 < gray.sum() < 8 * 8 * 60 * 40 * 0.99  # less the box and its label
    assert page.locator("#zoom").inner_text() == "800%"
    page.locator("#smaller").click()
    assert page.locator("#zoom").inner_text() == "640%" and (pixels(page) != before).any()
    page.locator("#picture").hover(position={"x": 100, "y": 100})
    page.mouse.wheel(0, -500)
    page.wait_for_function("() => parseInt(document.getElementById('zoom').textContent) > 1500")
    page.locator("#picture").dblclick()
    assert page.locator("#zoom").inner_text() == "800%" and (pixels(page) == before).all()
    page.mouse.move(400, 400)
    page.mouse.down()
    page.mouse.move(450, 430)
    page.mouse.up()
    moved = pixels(page)
    assert (moved[30:, 50:] == before[:-30, :-50]).mean() > 0.95 and (moved != before).any()
    assert page.errors == []


def test_classes_can_be_hidden(page):
    page.locator("#file").set_input_files(file("one.png"))
    page.locator("#threshold").fill("0.3")
    page.locator("#status", has_text="2 objects").wait_for()
    labels = page.locator("#classes li")
    assert labels.all_inner_texts() == ["cat: 1", "<b>dog</b>: 1"]
    labels.nth(1).locator("input").uncheck()
    page.locator("#status", has_text="1 object,").wait_for()
    assert [row.split("\t")[0] for row in rows(page)] == ["cat"]
    page.locator("#none").click()
    page.locator("#status", has_text="0 objects").wait_for()
    page.locator("#all").click()
    page.locator("#status", has_text="2 objects").wait_for()
    assert page.errors == []


@pytest.mark.parametrize("kind", ["json", "coco", "voc", "yolo"])
def test_what_is_shown_can_be_downloaded(page, kind, tmp_path):
    page.locator("#file").set_input_files([file("one.png"), file("two.png")])
    page.locator("#pictures .state", has_text="1 object").nth(1).wait_for()
    with page.expect_download() as download:
        page.locator(f"[data-format={kind}]").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    if kind == "json":
        assert [(one["file"], [box["name"] for box in one["boxes"]]) for one in json.loads(path.read_text())] == [
            ("one.png", ["<b>dog</b>"]),
            ("two.png", ["<b>dog</b>"]),
        ]
    elif kind == "coco":
        assert [a["bbox"] for a in json.loads(path.read_text())["annotations"]] == [[5, 6, 15.5, 24]] * 2
    else:
        folder, last = ("Annotations", "xml") if kind == "voc" else ("labels", "txt")
        with zipfile.ZipFile(path) as content:
            assert {f"{folder}/one.{last}", f"{folder}/two.{last}"} < set(content.namelist())
    assert page.errors == []


def test_keys(page):
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.locator("#file").set_input_files([file("one.png"), file("two.png"), file("three.png")])
    page.locator("#pictures .state", has_text="1 object").nth(2).wait_for()
    page.locator("#status", has_text="Picture 1 of 3").wait_for()
    for key, text in (
        ("ArrowRight", "2 of 3"),
        ("ArrowRight", "3 of 3"),
        ("ArrowRight", "3 of 3"),
        ("ArrowLeft", "2 of 3"),
    ):
        page.keyboard.press(key)
        page.locator("#status", has_text=f"Picture {text}").wait_for()
    for key, shown in (("[", "0.45"), ("[", "0.40"), ("]", "0.45")):
        page.keyboard.press(key)
        assert page.locator("#shown").inner_text() == shown
    for key, zoom in (("+", "1000%"), ("-", "800%"), ("-", "640%"), ("0", "800%")):
        page.keyboard.press(key)
        assert page.locator("#zoom").inner_text() == zoom
    before = pixels(page)
    page.keyboard.press("Shift+ArrowRight")
    assert (pixels(page) != before).any()
    page.keyboard.press("Delete")
    page.locator("#status", has_text="Picture 2 of 2").wait_for()
    assert page.locator("#pictures .name").all_inner_texts() == ["one.png", "three.png"]
    page.keyboard.press("o")
    for _ in range(100):
        page.wait_for_timeout(0 if choosers else 100)
    assert choosers
    page.locator("#threshold").focus()  # its arrow keys are its own
    page.keyboard.press("ArrowRight")
    assert page.locator("#shown").inner_text() == "0.46"
    assert "Picture 2 of 2" in page.locator("#status").inner_text() and page.errors == []


def test_a_file_that_is_refused_says_why_and_the_others_go_on(page):
    page.locator("#file").set_input_files([{**file("text.png"), "buffer": b"not an image"}, file("two.png")])
    page.locator("#status.error", has_text="text.png: the upload is not an image").wait_for()
    page.locator("#pictures .state", has_text="1 object").wait_for()
    assert page.locator("#picture").is_hidden() and page.locator("#pictures .failed").count() == 1
    page.keyboard.press("ArrowRight")
    page.locator("#status", has_text="Picture 2 of 2: 1 object").wait_for()
    page.locator("#clear").click()
    page.locator("#status", has_text="Choose pictures").wait_for()
    assert page.locator("#pictures li").count() == 0 and page.locator("#picture").is_hidden()
    assert all("415" in error for error in page.errors)  # the browser's own message


def test_a_picture_that_the_browser_cannot_decode_has_boxes(page, tmp_path):
    content = cv2.imencode(".tif", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    page.locator("#file").set_input_files({"name": "a.tif", "mimeType": "image/tiff", "buffer": content})
    page.locator("#status", has_text="1 object").wait_for()
    assert len(rows(page)) == 1 and len(np.unique(pixels(page))) > 10 and page.errors == []


def test_a_busy_server_is_asked_again(page, live):
    answers = []

    def busy_at_first(route):
        answers.append(route.request.url)
        if len(answers) == 1:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"detail": "8 requests are waiting"})
        else:
            route.continue_()

    page.route("**/api/detect*", busy_at_first)
    page.locator("#file").set_input_files(file("one.png"))
    page.locator("#status", has_text="1 object").wait_for()
    assert len(answers) == 2


def test_no_inline_code_runs(page):
    assert page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
        return window.ran === undefined;
    }""")


def test_a_page_of_another_origin_is_refused(browser, live):
    page = browser.new_page()
    url = f"http://127.0.0.1:{live.port}"
    form = f"<form method=post enctype=text/plain action={url}/api/detect><input name=a><input type=submit></form>"
    page.route("http://localhost:9/", lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto("http://localhost:9/")
    with page.expect_navigation() as navigation:
        page.locator("input[type=submit]").click()
    assert navigation.value.status == 403 and "a page of another site" in page.inner_text("body")
    page.close()

"""The page of tools/serve.py in Chromium. Run it by hand, because Chromium cannot be installed with the other packages:

pip install playwright, install chromium or google-chrome, then python -m pytest tests/serve/in_browser.py
"""

from __future__ import annotations

import shutil

import httpx
from playwright.sync_api import sync_playwright
from test_serve import server, wait_for

__all__ = ["server"]  # a fixture


def launch(play):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium is not None, "install chromium or google-chrome"
    return play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


def test_the_page_shows_boxes_in_a_browser(server, tmp_path):
    url, folder = server
    with httpx.Client() as client:
        wait_for(client, url)
    (tmp_path / "text.png").write_text("not an image")
    with sync_playwright() as play:
        browser = launch(play)
        page = browser.new_page()
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.locator("#about", has_text="2 classes").wait_for()
        page.locator("#threshold").fill("0")
        page.locator("#file").set_input_files(str(folder / "data/images/000.png"))
        page.wait_for_selector("#boxes tbody tr")
        rows = page.locator("#boxes tbody tr").count()
        assert rows > 0 and f"{rows} objects" in page.locator("#status").inner_text()
        assert page.evaluate("""() => {
            const canvas = document.getElementById('picture');
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return canvas.width > 30 && new Set(pixels).size > 50;
        }""")
        page.locator("#threshold").fill("1")
        page.locator("#status", has_text="0 objects").wait_for()
        assert page.locator("#boxes tbody tr").count() == 0
        assert errors == []
        page.locator("#file").set_input_files(str(tmp_path / "text.png"))
        page.locator("#status", has_text="is not an image").wait_for()
        assert page.locator("#status.error").count() == 1 and page.locator("#picture").is_hidden()
        assert all(address.startswith((url, "blob:")) for address in asked)
        assert page.evaluate("""() => {
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
            return window.ran === undefined;
        }"""), "the Content-Security-Policy lets inline code run"
        browser.close()


def test_a_page_of_another_origin_is_refused_in_a_browser(server):
    url, _ = server
    with httpx.Client() as client:
        wait_for(client, url)
    with sync_playwright() as play:
        browser = launch(play)
        page = browser.new_page()
        form = f"<form method=post enctype=text/plain action={url}/api/detect><input name=a><input type=submit></form>"
        page.route("http://localhost:9/", lambda route: route.fulfill(body=form, content_type="text/html"))
        page.goto("http://localhost:9/")
        with page.expect_navigation() as navigation:
            page.locator("input[type=submit]").click()
        assert navigation.value.status == 403 and "a page of another site" in page.inner_text("body")
        browser.close()

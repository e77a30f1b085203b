"""A Chromium, and pages as a user of it has them: run these with `make browser`.

CHROMIUM is its path, by default that of `chromium`. SCREENSHOTS may name a folder for pictures.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
SCHEMES, WIDTHS = ("light", "dark"), (1280, 360)


def picture(page, name, **options):
    """Writes one, where SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", **options)


@pytest.fixture(scope="session")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path or not Path(path).exists():
        pytest.exit(f"no Chromium {path or ''}; accepted: CHROMIUM, the path of one", returncode=1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """opened(path, scheme, width): a page; `said` of it has its complaints and its requests for
    anything but files."""

    @contextmanager
    def open_page(path, scheme, width, **keywords):
        viewport = {"width": width, "height": 900}
        page = chromium.new_page(viewport=viewport, color_scheme=scheme, **keywords)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("requestfailed", lambda request: page.said.append(f"failed {request.url}"))
        page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:"))
                or page.said.append(request.url))  # fmt: skip
        page.goto(path.as_uri())
        yield page
        page.close()

    return open_page

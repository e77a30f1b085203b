"""The page of tools.demo, asked over HTTP and seen in a browser: make browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import gradio_client
import pytest
from PIL import Image

from convnext import Classifier
from tests.browser.conftest import picture
from tests.helpers.inputs import noise

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "tests" / "fixtures" / "pretrained" / "official_v1.pth"
OF_GRADIO = "Method not implemented."  # a warning of its own


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """The file to which the command's standard error goes."""
    return tmp_path_factory.mktemp("demo") / "errors.txt"


@pytest.fixture(scope="module")
def url(errors):
    """Of the page of a small model, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [f"--model={SOURCE}", "--image_size=64", "--top_k=3", f"--port={port}"]
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tools.demo", *flags],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=stderr,
        ) as process,
    ):  # fmt: skip
        lines = [process.stdout.readline() for _ in range(2)]
        address = f"http://127.0.0.1:{port}/"
        assert lines[0].startswith("weights    "), errors.read_text()
        assert lines[1] == f"{SOURCE} is at {address}, until Ctrl-C\n", errors.read_text()
        yield address
        process.terminate()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photo, and what only has the name of one."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(noise(200, 300, 3)).save(folder / "photo.png")
    (folder / "text.png").write_text("<b>no image</b>")
    return folder / "photo.png", folder / "text.png"


@pytest.fixture(scope="module")
def expected(files):
    best = Classifier.from_pretrained(SOURCE)(files[0], top_k=3, size=64)[0]
    return {entry["label"]: entry["score"] for entry in best}


@pytest.fixture
def page(url, chromium):
    """The page in Chromium, which has nothing to complain of and asks no other host."""
    said = []

    def hear(message):
        if message.type in ("error", "warning") and message.text != OF_GRADIO:
            said.append(message.text)

    def ask(asked):
        if not asked.startswith((url, "blob:", "data:")):
            said.append(asked)

    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: ask(request.url))
    page.goto(url)
    yield page
    page.close()
    assert said == []


def upload(page, file):
    page.locator("input[type=file]").first.set_input_files(file)


def test_a_program_gets_what_the_classifier_says(url, files, expected):
    client = gradio_client.Client(url, verbose=False)
    scores, _ = client.predict(gradio_client.handle_file(files[0]), api_name="/look")
    assert scores["label"] == next(iter(expected))
    found = {entry["label"]: entry["confidence"] for entry in scores["confidences"]}
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_foreign_name_is_not_answered(url):
    """Else a page of someone else, whose name leads here, could read what this one says."""
    for host, status in (("evil.example", 400), ("localhost", 200)):
        request = urllib.request.Request(url, headers={"Host": host})
        try:
            with urllib.request.urlopen(request) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == status


def test_images_are_deleted_when_the_command_is_ended(files, tmp_path):
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "tools.demo", f"--model={SOURCE}", "--image_size=64"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout.readline().startswith("weights    ")
        address = process.stdout.readline().partition(" is at ")[2].partition(",")[0]
        client = gradio_client.Client(address, verbose=False)
        client.predict(gradio_client.handle_file(files[0]), api_name="/look")
        there = [path.name for path in tmp_path.rglob("*") if path.is_file()]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "photo.png" in there
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_that_was_not_uploaded_is_not_read(url, files):
    call = f"{url}gradio_api/call/look"
    mine = {"path": str(files[0]), "meta": {"_type": "gradio.FileData"}}
    request = urllib.request.Request(
        call, json.dumps({"data": [mine]}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}") as answer:
        assert answer.read().startswith(b"event: error\n")


def test_an_image_shows_its_labels_and_a_map_and_another_label_its_own(page, files, expected):
    upload(page, files[0])
    best, second, _ = expected
    overlay = page.get_by_role("img", name=f"Where the model sees it: {best}")
    overlay.wait_for()
    for label, score in expected.items():
        page.get_by_role("button", name=f"{label} {score:.0%}").wait_for()
    first = overlay.get_attribute("src")
    assert overlay.evaluate("image => image.decode().then(() => image.naturalWidth)") == 448

    page.get_by_role("button", name=second).click()
    overlay = page.get_by_role("img", name=f"Where the model sees it: {second}")
    overlay.wait_for()
    assert overlay.get_attribute("src") != first
    picture(page, "demo_1200")


def test_what_is_no_image_gives_a_message_and_no_labels(page, files, errors):
    before = errors.read_text()
    upload(page, files[0])
    page.get_by_text("Where the model sees it: ").wait_for()
    page.get_by_label("Remove Image").click()
    page.get_by_text("Where the model sees it: ").wait_for(state="detached")
    upload(page, files[1])
    page.get_by_text("This image cannot be used: it is of none of the formats").wait_for()
    assert page.get_by_text("LABEL_").count() == 0
    assert errors.read_text() == before  # no stack trace


def test_the_page_fits_a_phone(page, files):
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, files[0])
    page.get_by_text("Where the model sees it: ").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    picture(page, "demo_390", full_page=True)

"""The pages of `make api`."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import convnext


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api")
    subprocess.run([sys.executable, "-m", "dev.api", f"--out={out}"], check=True)
    return out


def text(source: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def test_every_module_has_a_page(pages):
    root = Path(convnext.__file__).parent
    modules = {path.relative_to(root).with_suffix("") for path in root.rglob("*.py")}
    modules = {module.parent if module.name == "__init__" else module for module in modules}
    modules.discard(Path())
    found = {
        path.relative_to(pages / "convnext").with_suffix("")
        for path in (pages / "convnext").rglob("*.html")
    }
    assert found == modules


def test_what_the_package_exports_is_described_on_its_own_page(pages):
    page = (pages / "convnext.html").read_text()
    descriptions = text(" ".join(re.findall(r'class="docstring">(.*?)</div>', page, re.DOTALL)))
    for words in (
        "Images [N, H, W, 3], normalised, to float32 logits [N, num_classes].",
        "blocks in each stage",
        "Pixels of the image per pixel of each map that is returned.",
        "Table 9 of the paper",
        "The top_k (at most all) classes of each image, best first",
        "The model and its float32 parameters.",
    ):
        assert words in descriptions, words


def test_pages_show_what_is_written_and_nothing_of_one_process(pages):
    for page in pages.rglob("*.html"):
        shown = text(page.read_text())
        assert not re.search(r"object at 0x|_Sentinel|Call self as a function", shown), page

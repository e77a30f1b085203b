"""The pages of `make api`."""

import html
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import convnext

ROOT = Path(convnext.__file__).parents[1]
PAGES = ROOT / "build" / "api"


@pytest.fixture(scope="module")
def printed() -> str:
    command = ["make", "--old-file=.venv/test.installed", "api"]
    done = subprocess.run(
        command, check=True, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


def test_every_module_has_a_page(printed):
    pages = PAGES / "convnext"
    root = ROOT / "convnext"
    modules = {path.relative_to(root).with_suffix("") for path in root.rglob("*.py")}
    modules = {module.parent if module.name == "__init__" else module for module in modules}
    modules |= {module.parent for module in modules}  # every room
    modules -= {Path(), Path("__main__")}  # a command
    assert {path.relative_to(pages).with_suffix("") for path in pages.rglob("*.html")} == modules
    assert (PAGES / "convnext.html").exists() and (PAGES / "index.html").exists()


def test_pdoc_finds_every_name_and_every_type(printed):
    assert "Warn" not in printed


def test_what_the_package_exports_is_described_on_its_own_page(printed):
    page = (PAGES / "convnext.html").read_text()
    sections = {
        name: page.partition(f'<section id="{name}">')[2].partition("</section>")[0]
        for name in convnext.__all__
    }
    for variant in convnext.VARIANTS:
        assert f"&#39;{variant}&#39;" in sections["VARIANTS"], variant
    for name in set(convnext.__all__) - {"VARIANTS"}:
        first_line = inspect.getdoc(getattr(convnext, name)).partition("\n")[0]
        described = re.search(r'class="docstring">(.*?)</div>', sections[name], re.DOTALL)
        assert described and text(described[1]).startswith(first_line), name


def text(source: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", source)).split())

"""That what the pages for people name exists."""

import os
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import convnext_tiny
from dev.benchmarks import models

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_of_a_config_is_a_field_of_it(page):
    for flag in re.findall(r"--config\.([a-z][\w.]*\w)", page.read_text()):
        fields = convnext_tiny.get_config()
        for name in flag.split("."):
            assert isinstance(fields, ConfigDict) and name in fields, flag
            fields = fields[name]


def test_make_says_what_it_installs_before_it_does():
    lines = (ROOT / "Makefile").read_text().splitlines()
    installs = [i for i, line in enumerate(lines) if re.match(r"\t.*INSTALL\) ", line)]
    assert len(installs) == 5
    for i in installs:
        what = lines[i].partition("INSTALL) ")[2].removeprefix("-r ")
        assert lines[i - 1] == f"\t$(call SAY_INSTALL,{what})"


@pytest.mark.parametrize("target", ["train", "test"])
def test_make_installs_by_uv_where_it_is_on_the_path(target, tmp_path):
    uv = tmp_path / "uv"
    uv.touch(0o755)
    plan = ["make", "--dry-run", "--always-make", f".venv/{target}.installed", "CONSTRAINTS=c.txt"]
    env = {"PATH": f"{tmp_path}:{os.defpath}"}
    run = partial(subprocess.run, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    by_uv = f"{uv} pip install --quiet --python=.venv/bin/python --constraint c.txt -r requirements"
    assert by_uv in run(plan).stdout
    assert ".venv/bin/python -m pip install" in run([*plan, "UV="]).stdout


def test_make_bench_finds_the_ratios_of_the_page_that_it_compares_with():
    ratios = models.ratios_of(ROOT / "docs" / "performance.md")
    compared = {("tiny", "inference", 1), ("tiny", "inference", 8), ("tiny", "training", 8)}
    assert compared <= {key[:3] for key in ratios}


def prose(page):
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page):
    """Makes them of its headings, as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

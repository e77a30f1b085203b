"""What a release says in more than one place, says the same in each."""

import json
import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import convnext
from convnext.__main__ import TRAIN_EXTRA
from tools.reporting import browser

ROOT = Path(__file__).parent.parent
# The last version with an advisory.
VULNERABLE = {
    "opencv-python-headless": "4.11.0.86",  # CVE-2025-53644
    "filelock": "3.20.2",  # CVE-2026-22701
    "jinja2": "3.1.5",  # CVE-2025-27516
}


def test_the_version_is_that_of_the_package_in_the_citation_and_the_changelog():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == convnext.__version__
    newest = re.search(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest[1] == convnext.__version__


def test_github_runs_what_ci_runs_and_the_suite_on_every_other_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    ci, newer = workflow["jobs"]["ci"], workflow["jobs"]["newer"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))

    assert ci["steps"][-1] == {"run": ".ci/run"}
    assert newer["steps"][-1] == {"run": "make test PYTHON=python"}
    assert [ci["steps"][1]["with"]["python-version"]] == promised[:1]
    assert newer["strategy"]["matrix"]["python-version"] == promised[1:]
    assert project["requires-python"] == f">={promised[0]}"
    assert workflow["permissions"] == {"contents": "read"}


def test_the_package_with_what_trains_asks_for_all_that_the_requirements_have():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["train"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(map(str, map(Requirement, [*project["dependencies"], *extra]))) == sorted(
        map(str, map(Requirement, lines))
    )
    modules = {"scikit-learn": "sklearn", "tensorflow-datasets": "tensorflow_datasets"}
    names = [Requirement(line).name for line in extra]
    assert {modules.get(name, name) for name in names} == TRAIN_EXTRA


def test_a_library_is_asked_for_alike_in_every_file_and_constrained_to_what_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines += project["dependencies"]
    for path in ROOT.glob("requirements*.txt"):
        lines += [line for line in path.read_text().splitlines() if not line.startswith("-r")]
    asked = {}
    for requirement in map(Requirement, lines):
        if requirement.specifier:
            name = canonicalize_name(requirement.name)
            assert asked.setdefault(name, requirement.specifier) == requirement.specifier, name
    for path in ROOT.glob("constraints*.txt"):
        for pinned in map(Requirement, path.read_text().splitlines()):
            (version,) = (each.version for each in pinned.specifier)
            name = canonicalize_name(pinned.name)
            assert name not in asked or version in asked[name], f"{name} in {path.name}"
    for name, version in VULNERABLE.items():
        assert version not in asked[name], name


def test_the_page_in_a_browser_asks_for_the_runtime_that_was_run():
    tested = json.loads((ROOT / "tests/browser/package.json").read_text())["dependencies"]
    asked = f"npm install onnxruntime-web@{tested['onnxruntime-web']}"
    assert asked == browser.INSTALL and asked in (ROOT / "docs/export.md").read_text()

"""What a release says in more than one place, says the same in each."""

import re
import tomllib
from pathlib import Path

import yaml

import convnext

ROOT = Path(__file__).parent.parent


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

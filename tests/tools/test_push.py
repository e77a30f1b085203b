import json
import shutil
from pathlib import Path

import huggingface_hub as hub
import numpy as np
import pytest

import convnext
from convnext.runs import chosen
from convnext.weights import pretrained
from tests.helpers.inputs import refused
from tools import push


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A run of the digits, as one that was fine-tuned."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("push") / "run")
    config = json.loads((workdir / "config.json").read_text())
    config.update(init_from="convnext_atto", licence="apache-2.0")
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "report.html").write_text("<p>with images</p>")
    return workdir


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """The folder of a dry run."""
    out = tmp_path_factory.mktemp("pushed")
    push.main([str(run), "jane/digits", "--dry_run", f"--out={out}"])
    return out


@pytest.fixture
def hubs(monkeypatch):
    """What a stand-in of the Hub was asked for, in order."""
    asked = []

    class Api:
        def create_repo(self, repository, **given):
            asked.append(("create", repository, given))

        def upload_folder(self, *, repo_id, folder_path, **_):
            files = {path.name for path in Path(folder_path).iterdir()}
            asked.append(("upload", repo_id, files))

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub.ModelCard, "validate", lambda card: asked.append(("validate", card)))
    return asked


FILES = {"README.md", "config.json", "curves.png", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.slow
def test_the_card_has_what_the_run_has(run, written):
    card = hub.ModelCard.load(written / "README.md")
    data = card.data
    assert (data.license, data.base_model) == ("apache-2.0", "timm/convnext_atto.d2_in1k")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    config = json.loads((run / "config.json").read_text())
    best = chosen.find(run, "best", ema_decays=config["ema_decays"], best="top1")
    (result,) = data.eval_results
    assert result.dataset_name == "digits" and result.metric_type == "accuracy"
    assert best.score == f"val_ema/top1 {result.metric_value:.4f}"
    text = card.text
    assert f"The weights are those {best}.\n" in text and "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    assert "On 360 validation images" in text and "![Loss, score" in text
    matrix = text.partition("```text\n")[2].partition("```")[0].splitlines()[1:]
    counts = [[0 if cell == "." else int(cell) for cell in row.split()[1:]] for row in matrix]
    right, total = np.trace(counts), np.sum(counts)
    assert total == 360 and right / total == pytest.approx(result.metric_value)
    assert str(run) not in text and "/tmp" not in text


@pytest.mark.slow
def test_the_weights_are_the_best_of_the_run(run, written):
    assert {path.name for path in written.iterdir()} == FILES
    found, expected = pretrained.load(written), pretrained.load(f"{run}@best")
    assert found.labels == expected.labels
    for name, value in convnext.from_pretrained(written)[1]["head"].items():
        np.testing.assert_array_equal(value, expected.params["head"][name])


@pytest.mark.slow
def test_the_card_is_validated_before_anything_is_uploaded(run, hubs, capsys):
    push.main([str(run), "jane/digits", "--private"])
    (first, card), created, uploaded = hubs
    assert first == "validate" and card.data.model_name == "digits"
    assert created == ("create", "jane/digits", dict(private=True, exist_ok=True))
    assert uploaded == ("upload", "jane/digits", FILES)
    assert capsys.readouterr().out.endswith("https://huggingface.co/jane/digits\n")


@pytest.mark.slow
def test_images_go_along_where_one_says_so(run, hubs):
    push.main([str(run), "jane/digits", "--with_images"])
    assert hubs[-1] == ("upload", "jane/digits", FILES | {"report.html"})


@pytest.mark.slow
def test_what_the_hub_refuses_is_a_line(run, hubs, monkeypatch, capsys):
    def refuse(_):
        raise ValueError("license is\nnot valid")

    monkeypatch.setattr(hub.ModelCard, "validate", refuse)
    with pytest.raises(SystemExit) as ended:
        push.main([str(run), "jane/digits"])
    assert str(ended.value) == (
        "error: cannot push to jane/digits: license is not valid; accepted: a repository of yours, "
        "after hf auth login"
    )
    assert hubs == []


@pytest.mark.slow
def test_without_its_images_a_run_has_the_scores_of_its_log(run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "run")
    config = json.loads((moved / "config.json").read_text())
    config["data"].update(name="folder", root="/data/secret/flowers")
    (moved / "config.json").write_text(json.dumps(config))
    push.main([str(moved), "jane/flowers", "--dry_run"])
    assert "no confusions, and the scores that the run had: the data of" in capsys.readouterr().out
    card = hub.ModelCard.load(moved / "hub" / "README.md")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_type) == ("flowers", "imagefolder")
    config = json.loads((run / "config.json").read_text())
    best = chosen.find(run, "best", ema_decays=config["ema_decays"], best="top1")
    assert best.score == f"val_ema/top1 {result.metric_value:.4f}"
    assert 0 < result.metric_value < 1 and "secret" not in str(card) and "```text" not in card.text


@pytest.mark.parametrize(
    "source, base",
    [
        (None, None),
        ("convnext_atto", "timm/convnext_atto.d2_in1k"),
        ("facebook/convnext-tiny-224", "facebook/convnext-tiny-224"),
        ("tests/fixtures", None),
        ("/data/weights", None),
        ("runs/a@best", None),
    ],
)
def test_only_an_id_is_a_base_model(source, base):
    assert push._base_model(source) == base


@pytest.mark.parametrize("repository", ["digits", "a/b/c", "a b/c", ""])
def test_a_repository_is_of_a_user(repository, capsys):
    with pytest.raises(SystemExit, match="USER/NAME is .*; accepted: such as jane/flowers"):
        push.main(["run", repository])


def test_images_that_are_not_there_are_said(run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "report.html").unlink()
    refused("--with_images is True; accepted: a run with a .*report.html, of tools.report",
            push.write, tmp_path / "out", bare, "a/b", "timm", with_images=True)  # fmt: skip

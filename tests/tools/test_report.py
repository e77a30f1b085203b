"""The page about a run: what it says is what is computed here by hand."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

from convnext.data import sources
from convnext.evaluation import activation
from convnext.images import augment
from convnext.weights import pretrained
from tests.helpers import synthetic_runs
from tests.helpers.inputs import refused
from tools import report as report_command
from tools.reporting import figures, page, predictions, runs, tables

NO_CONNECTION = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    """A whole run, and the page about it."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "digits")
    report_command.report(workdir)
    return workdir


class Page(HTMLParser):
    """tables: rows of text, by the label of what they lie in; images: (src, alt); texts."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.drawings, self.facts = {}, [], [], []
        self.label, self.cell = None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("role") == "group":
            self.label = attributes["aria-label"]
            self.tables[self.label] = []
        elif attributes.get("role") == "img":
            self.drawings.append(attributes["aria-label"])
        elif tag == "img":
            self.images.append((attributes["src"], attributes["alt"]))
        elif tag == "tr" and self.label:
            self.tables[self.label].append([])
        elif tag in ("td", "th", "dt", "dd"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.label:
            self.tables[self.label][-1].append(self.cell.strip())
        elif tag in ("dt", "dd"):
            self.facts.append(self.cell.strip())
        if tag in ("td", "th", "dt", "dd"):
            self.cell = None
        elif tag == "table":
            self.label = None


@pytest.fixture(scope="module")
def text(workdir):
    return (workdir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(text):
    return Page(text)


@pytest.fixture(scope="module")
def by_hand(workdir):
    """{weights: (probabilities [N, K], labels [N])} of the validation images."""
    _, val = sources.load("digits")
    found = {w: pretrained.load(workdir, weights=w) for w in ("raw", "ema", "ema_0.5")}
    images = found["raw"].processor.preprocess([val[i]["image"] for i in range(len(val))])
    apply = jax.jit(found["raw"].model.apply)
    probabilities = {
        weights: np.asarray(jax.nn.softmax(apply({"params": one.params}, images)), np.float64)
        for weights, one in found.items()
    }
    return probabilities, np.array(val.labels)


def ece(probabilities, labels):
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    part = np.ceil(confidence * 15)
    gaps = [abs(confidence[part == p].sum() - right[part == p].sum()) for p in range(1, 16)]
    return sum(gaps) / len(labels)


@pytest.mark.slow
def test_the_scores_are_those_of_each_of_the_weights(shown, by_hand):
    probabilities, labels = by_hand
    header, *rows = shown.tables["Scores"]
    assert header == ["Weights", "Loss", "Top-1", "Top-5", "Calibration error"]
    assert [row[0] for row in rows] == ["raw", "EMA 0.9", "EMA 0.5"]
    for row, each in zip(rows, probabilities.values(), strict=True):
        order = np.argsort(-each, axis=1)
        expected = [
            -np.log(each[np.arange(360), labels]).mean(),
            (order[:, 0] == labels).mean(),
            (order[:, :5] == labels[:, None]).any(axis=1).mean(),
            ece(each, labels),
        ]
        np.testing.assert_allclose([float(cell) for cell in row[1:]], expected, atol=6e-5)
    assert shown.facts[:4] == ["Top-1, EMA 0.9", rows[1][2], "Top-1, raw", rows[0][2]]


def test_the_matrix_and_the_lists_are_of_the_reported_weights(shown, by_hand):
    probabilities, labels = by_hand
    predictions = probabilities["ema"].argmax(axis=1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predictions), 1)
    header, *rows = shown.tables["Confusion matrix"]
    assert header[1:] == [row[0] for row in rows] == [str(i) for i in range(10)]
    np.testing.assert_array_equal([[int(cell) for cell in row[1:]] for row in rows], confusion)

    _, first, *_ = shown.tables["The most frequent mistakes"]
    off = confusion * (1 - np.eye(10, dtype=int))
    label, prediction = np.unravel_index(off.argmax(), off.shape)
    share = off.max() / confusion[label].sum()
    assert first == [str(label), str(prediction), str(off.max()), f"{share:.3f}"]

    _, *rows = shown.tables["Classes"]
    recall = confusion.diagonal() / confusion.sum(axis=1)
    assert [row[2] for row in rows] == [f"{a:.4f}" for a in np.sort(recall)]
    worst = recall.argmin()
    assert rows[0] == [str(worst), str(confusion[worst].sum()), f"{recall.min():.4f}", "",
                       "0.0000", str(off[worst].argmax()), str(off[worst].max())]  # fmt: skip
    best = recall.argmax()
    precision = confusion[best, best] / confusion[:, best].sum()
    f1 = 2 / (1 / precision + 1 / recall[best])
    assert rows[-1][3:5] == [f"{precision:.4f}", f"{f1:.4f}"]


def test_the_gallery_has_the_most_confident_mistakes_and_a_map_of_each(shown, by_hand):
    probabilities, labels = by_hand
    each = probabilities["ema"]
    wrong = each.argmax(axis=1) != labels
    worst = np.argsort(-np.where(wrong, each.max(axis=1), 0), kind="stable")[: predictions.MISTAKES]
    alts = [alt for _, alt in shown.images]
    assert alts[::2] == [f"image {i}, of {labels[i]}" for i in worst]
    taken_for = each.argmax(axis=1)[worst]
    assert alts[1::2] == [f"The same image, bright where it speaks for {k}" for k in taken_for]
    pictures = [source for source, _ in shown.images]
    assert all(source.startswith("data:image/webp;base64,") for source in pictures)
    assert all(plain != over for plain, over in zip(pictures[::2], pictures[1::2], strict=True))


@pytest.mark.slow
def test_the_map_is_of_the_predicted_class_in_what_the_model_sees(workdir):
    run = runs.read(workdir)
    found = predictions.find(run, data_root=None, batch_size=128, num_workers=0)
    mistake, one = found.mistakes[0], pretrained.load(workdir, weights="ema")
    _, val = sources.load("digits")
    image = val[mistake.index]["image"]
    assert val[mistake.index]["label"] == mistake.label != mistake.prediction
    heat = activation.class_activation(
        one.params, one.processor.preprocess(image), np.array([mistake.prediction]), model=one.model
    )
    pixels = augment.eval_transform(image, image_size=16, crop_pct=1.0)
    np.testing.assert_array_equal(mistake.image, np.kron(pixels, np.ones((12, 12, 1))))
    expected = activation.overlay(mistake.image, np.asarray(heat[0]))
    np.testing.assert_allclose(mistake.overlay.astype(int), expected, atol=1)


def test_the_curves_are_those_of_the_log(workdir, shown):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    header, *rows = shown.tables["Top-1, as a table"]
    assert header == ["step", "raw", "EMA 0.9", "EMA 0.5"]
    prefixes = ("val", "val_ema", "val_ema_0.5")
    evaluated = [line for line in lines if "val/top1" in line]
    assert rows == [
        [str(line["step"]), *(f"{line[f'{prefix}/top1']:.5g}" for prefix in prefixes)]
        for line in evaluated
    ]
    titles = {drawing.partition(" over")[0].rstrip(",") for drawing in shown.drawings}
    assert titles == {"Loss", "Top-1", "Learning rate", "Images per second", "Accuracy",
                      "Norm of the gradients", "Share of time waiting for images"}  # fmt: skip


def test_the_parts_of_confidence_are_those_of_the_calibration_error(shown, by_hand):
    probabilities, labels = by_hand
    _, *rows = shown.tables["Accuracy over confidence, as a table"]
    for column, weights in ((1, "raw"), (4, "ema"), (7, "ema_0.5")):
        filled = [row[column : column + 3] for row in rows if row[column] != "0"]
        count, confidence, accuracy = np.array(filled, float).T
        assert count.sum() == 360
        total = (count * np.abs(confidence - accuracy)).sum() / 360
        each = probabilities[weights]
        assert (count * accuracy).sum() / 360 == pytest.approx(
            (each.argmax(axis=1) == labels).mean(), abs=1e-4
        )
        assert total == pytest.approx(ece(probabilities[weights], labels), abs=1e-4)


def test_the_page_says_the_recipe_and_what_the_run_ran_on(workdir, shown, text):
    assert (
        "<td>4.5e-05</td>" not in text and '<th scope="row">peak learning rate</th><td>0.01' in text
    )
    fields = dict(shown.tables["All fields of the config"][1:])
    assert fields["model.dims"] == "8, 16" and fields["schedule.peak_lr"] == "0.01"
    assert fields["train_size"] == "1,437"
    environment = json.loads((workdir / "environment.json").read_text())
    rows = {name: values for name, *values in shown.tables["Environment"][1:]}
    assert rows["jax"] == [environment["jax"], jax.__version__]
    assert rows["device count"] == ["8", "8"]
    silent = page.render(synthetic_runs.run(workdir, 10, 1), synthetic_runs.findings(10))
    assert "The run does not say what it ran on" in silent
    assert ["jax", jax.__version__] in Page(silent).tables["Environment"]


def test_the_page_is_one_file_without_scripts(text):
    assert "<script" not in text and NO_CONNECTION in text
    assert set(re.findall(r'\b(?:src|href|xlink:href)="([a-z]+:)', text)) == {"data:", "https:"}
    links = re.findall(r'<(\w+)[^>]*="https:', text)
    assert set(links) == {"a"}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)
    assert not re.search(r"#0101[ab]\d", text)  # every stand-in has become the page's colour


@pytest.mark.slow
def test_the_same_run_has_the_same_page(workdir, tmp_path, text, capsys):
    out = tmp_path / "page.html"
    report_command.main([f"--workdir={workdir}", f"--out={out}", "--batch_size=128"])
    assert out.read_text(encoding="utf-8") == text
    assert capsys.readouterr().out == (
        f"{out}: {out.stat().st_size:,} bytes, of step 44 of {workdir}\n"
        f"{tmp_path / 'page_predictions.csv'}: 360 images\n"
        "likely wrong labels: not looked for, the images of this run are no files of their own\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page_predictions.csv"}


def test_names_from_elsewhere_are_escaped(tmp_path):
    bad = "<script>alert(1)</script>"
    findings = synthetic_runs.findings(10)
    findings = replace(findings, class_names=(bad, '"><img src=x>', *findings.class_names[2:]))
    run = synthetic_runs.run(tmp_path / "<b>", 10, num_epochs=1)
    run.config["data"]["root"] = run.config["init_from"] = bad
    run = replace(run, environment={"jax": bad})
    text = page.render(run, findings, [replace(run, workdir=tmp_path / bad.replace("/", ""))])
    assert "<script" not in text and "src=x" not in text.replace("&gt;&lt;img src=x&gt;", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<b>" not in text


def test_further_runs_lie_in_the_same_plots_and_their_recipes_are_compared(tmp_path):
    run = synthetic_runs.run(tmp_path / "a", 10, num_epochs=5)
    other = synthetic_runs.run(tmp_path / "b", 10, num_epochs=10)
    other.config["schedule"]["peak_lr"] = 1e-3
    shown = Page(page.render(run, synthetic_runs.findings(10), [other]))
    header, *rows = shown.tables["Scores of the runs"]
    top1 = [dict(r.series("val_ema/top1")) for r in (run, other)]
    for row, scores, last in zip(rows, top1, (1560, 3120), strict=True):
        assert row[3:] == [
            row[3],
            f"{scores[last]:.4f}",
            f"{max(scores.values()):.4f}",
            f"{last:,}",
        ]
    differ = shown.tables["Differences of the recipes"]
    assert differ == [["Field", "a", "b"], ["schedule.peak_lr", "0.004", "0.001"],
                      ["num_epochs", "5", "10"]]  # fmt: skip
    header, *_ = shown.tables["Learning rate, as a table"]
    assert header == ["step", "a", "b"]
    header, *_ = shown.tables["Top-1, as a table"]
    assert header[1:3] == ["a, raw", "a, EMA 0.9999"] and header[4] == "b, raw"


@pytest.mark.slow
def test_a_run_that_was_interrupted_has_the_curves_so_far(workdir, tmp_path):
    stopped = shutil.copytree(workdir, tmp_path / "stopped")
    shutil.rmtree(stopped / "checkpoints" / "44")
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:9])
    report_command.main([f"--workdir={stopped}"])
    text = (stopped / "report.html").read_text(encoding="utf-8")
    assert "Not complete: logged up to step 10 of 44." in text
    assert "Of the weights after step 33" in text
    assert [row[0] for row in Page(text).tables["Loss, as a table"]] == ["step", "5", "10"]
    assert "Top-1, as a table" not in Page(text).tables  # no evaluation yet

    run = runs.read(stopped)
    assert replace(run, config={**run.config, "num_steps": 50}).num_steps == 50

    silent = replace(synthetic_runs.run(stopped, 10), lines=[])
    text = page.render(silent, synthetic_runs.findings(10))
    assert "Nothing has been logged yet." in text


@pytest.mark.slow
def test_a_regression_has_no_sections_of_classes(regression, tmp_path):
    report_command.report(regression, out=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = Page(text)
    last = runs.read(regression).lines[-1]
    header, raw, *_ = shown.tables["Scores"]
    assert header == ["Weights", "Loss", "Mean absolute error"]
    assert raw == ["raw", f"{last['val/loss']:.4f}", f"{last['val/mae']:.4f}"]
    assert text.count("In this run it has numbers to predict.") == 4
    assert "Confusion matrix" not in shown.tables and not shown.images
    assert "Mean absolute error, as a table" in shown.tables


def test_of_many_classes_the_most_confused_ones_are_shown(tmp_path):
    findings = synthetic_runs.findings(40)
    shown = Page(page.render(synthetic_runs.run(tmp_path, 40, 2), findings))
    header, *rows = shown.tables["Confusion matrix"]
    assert len(rows) == tables.BLOCK and header[-1] == "others"
    assert all(sum(map(int, row[1:])) == 50 for row in rows)
    _, *frequent = shown.tables["The most frequent mistakes"]
    counts = [int(row[2]) for row in frequent]
    assert counts == sorted(counts, reverse=True) and len(counts) == tables.LISTED
    assert {frequent[0][0], frequent[0][1]} <= {*header}
    assert any(
        drawing.startswith("Confusion matrix of all 40 classes") for drawing in shown.drawings
    )


def test_what_is_confused_and_what_is_worst_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predictions = np.array([1, 1, 0, 1, 2, 0, 1, 1])
    mistakes = tables.confusions(labels, predictions)
    assert mistakes == [(0, 1, 2), (2, 1, 2), (1, 2, 1), (2, 0, 1)]
    assert tables.matrix(labels, predictions, [0, 2]) == [
        {"label": 0, "cells": [(1, 1 / 3, True), (0, 0.0, False)], "others": 2},
        {"label": 2, "cells": [(1, 1 / 3, False), (0, 0.0, True)], "others": 2},
    ]
    rows = tables.of_classes(labels, predictions, 4, mistakes)
    assert rows == [
        dict(label=2, count=3, precision=0.0, recall=0.0, f1=0.0, taken_for=1, times=2),
        dict(label=0, count=3, precision=0.5, recall=1 / 3, f1=0.4, taken_for=1, times=2),
        dict(label=1, count=2, precision=0.2, recall=0.5, f1=2 / 7, taken_for=2, times=1),
    ]
    means = tables.macro(rows)
    assert means == pytest.approx({"precision": 0.7 / 3, "recall": 5 / 18, "f1": 24 / 105})
    (alone,) = tables.of_classes(np.array([1]), np.array([0]), 2, [(1, 0, 1)])
    assert alone["precision"] is None and tables.macro([alone])["precision"] == 0
    assert tables.confused_classes(100, [(7, 3, 9), (50, 7, 8)]) == [3, 7, 50]


def test_a_long_curve_is_drawn_as_means_and_ranges_and_gaps_stay():
    points = [(step, 1.0 if step % 2 else 3.0) for step in range(1000)]
    points[500:510] = [(step, np.nan) for step in range(500, 510)]
    step, low, mean, high = figures.stretches(points)
    assert len(step) == figures.STRETCHES and step[0] == 4.5
    assert (low[0], mean[0], high[0]) == (1, 2, 3) and np.isnan(mean[50])
    short = points[:7]
    np.testing.assert_array_equal(figures.stretches(short)[:3:2], np.array(short).T)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: shutil.rmtree(w), "no folder .*; accepted: the workdir of a run"),
        (lambda w: shutil.rmtree(w / "checkpoints"), "no checkpoint in "),
        (lambda w: (w / "metrics.jsonl").unlink(), "no metrics.jsonl in "),
        (lambda w: (w / "config.json").write_text("{}"), "cannot be read: KeyError 'ema_decays'"),
        (lambda w: (w / "config.json").write_text("{"), "cannot be read: JSONDecodeError"),
        (lambda w: (w / "classes.json").write_text('["0", "b"]'), "class 1 of the data is '1'"),
        (lambda w: _set(w, data={"name": "folder", "root": "/nowhere"}),
         "the data of .* cannot be read: no folder /nowhere.*; accepted: --data_root"),
        (lambda w: _set(w, val_size=7), "the number of validation images is 360; accepted: 7"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_said_in_a_line(workdir, tmp_path, change, message):
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "report.html").unlink()
    change(run)
    refused(message, report_command.report, run, out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def _set(workdir, **fields):
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**config, **fields}))


def test_flags_that_cannot_be_are_said_in_a_line(workdir, tmp_path, capsys):
    refused("no folder .*nowhere", report_command.report, workdir, compare=[tmp_path / "nowhere"])
    refused("no config.json in", report_command.report, workdir, compare=[tmp_path])
    refused("number of --compare is 8", report_command.report, workdir, compare=[workdir] * 8)
    refused("--num_workers is -1", report_command.report, workdir, num_workers=-1)
    refused(
        "batch_size is 3; accepted: multiples of 8", report_command.report, workdir, batch_size=3
    )
    for out in (tmp_path / "nowhere" / "page.html", tmp_path):
        refused("--out is .* which cannot be written", report_command.report, workdir, out=out)
    other = shutil.copytree(workdir, tmp_path / "other")
    _set(other, problem_type="regression")
    refused("the problem of .* is 'regression'", report_command.report, workdir, compare=[other])
    with pytest.raises(
        SystemExit, match="^error: no folder nowhere; accepted: the workdir of a run"
    ):
        report_command.main(["--workdir=nowhere"])

"""eval.py against what timm's validate.py does: its dataset, loader, model, criterion and accuracy,
with the real labels and the valid labels of its options, on small folders."""

import json
from pathlib import Path

import pytest
import timm
import torch
from absl import flags
from absl.testing import flagsaver
from timm.data import RealLabelsImagenet, create_dataset, create_loader, resolve_data_config
from timm.utils import accuracy

import eval as eval_command
from convnext.data import imagenet as labels
from tests.helpers import imagenets


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return imagenets.write_weights(tmp_path_factory.mktemp("exported") / "timm")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return imagenets.write(tmp_path_factory.mktemp("imagenet"))


def validated(folder, data, *, size, real=None, valid=None):
    """top1, top5 and loss over all examples, as fractions."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = resolve_data_config({"input_size": (3, size, size)}, model=model)
    dataset = create_dataset(root=data, name="", split="validation")
    loader = create_loader(
        dataset, input_size=config["input_size"], batch_size=64, use_prefetcher=False,
        interpolation=config["interpolation"], mean=config["mean"], std=config["std"],
        num_workers=0, crop_pct=config["crop_pct"], crop_mode=config["crop_mode"],
        device=torch.device("cpu"), pin_memory=False,
    )  # fmt: skip
    real_labels = None
    if real is not None:
        real_labels = RealLabelsImagenet(dataset.filenames(basename=True), real_json=real)
    sums, count = [0.0, 0.0, 0.0], 0
    with torch.inference_mode():
        for images, target in loader:
            output = model(images)
            output = output if valid is None else output[:, valid]
            if real_labels is not None:
                real_labels.add_result(output)
            top1, top5 = accuracy(output, target, topk=(1, 5))
            loss = torch.nn.functional.cross_entropy(output, target)
            for place, value in enumerate((top1 / 100, top5 / 100, loss)):
                sums[place] += value.item() * len(target)
            count += len(target)
    top1, top5, loss = (total / count for total in sums)
    if real_labels is not None:
        top1, top5 = (real_labels.get_accuracy(k=k) / 100 for k in (1, 5))
    return {"top1": top1, "top5": top5, "loss": loss}


@pytest.mark.parametrize("size", [32, 45])
@pytest.mark.parametrize("name", ["val", "real", "a"])
def test_results_are_timms_to_the_image(exported, imagenet, tmp_path, name, size):
    options = {}
    if name == "real":  # timm wants as many entries as there are images
        options["real"] = tmp_path / "real.json"
        options["real"].write_text(json.dumps(labels.real()[:1000]))
    if name == "a":
        options["valid"] = labels.classes_of("a")
    folder = imagenet / ("imagenet-a" if name == "a" else "val")
    theirs = validated(exported, str(folder), size=size, **options)

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    out = tmp_path / "out.json"
    with flagsaver.flagsaver(
        weights=[str(exported)], data=[name], data_root=str(imagenet), image_size=[str(size)],
        batch_size=40, json=str(out),
    ):  # fmt: skip
        eval_command.main(None, None)
    (ours,) = json.loads(Path(out).read_text())
    for score in ("top1", "top5"):
        assert ours[score] == pytest.approx(theirs[score], abs=0.1 / ours["count"])
    if name != "real":  # whose loss timm takes over all images, also those without a label
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["top5"] > 0  # the test could fail

"""timm's side of `python -m dev.small_sets`, started by it: fine-tunes weights on a folder.

    python -m dev.benchmarks.peer_finetuning '{"weights": ..., "root": ..., ...}'

AdamW, a cosine after a warm-up of a tenth, timm's own augmentation and an EMA. The rate is the one
of `rates` that does best on a fifth of the training images, which is held out for that; or the only
one. Prints a JSON object: the rate, and the top-1 of the EMA on the validation images.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

import dev.torchvision_operators  # noqa: F401

HELD = 5  # one training image in so many is held out to choose the rate


def main(request):
    from timm.data import ImageDataset

    torch.manual_seed(request["seed"])
    count = len(ImageDataset(str(Path(request["root"]) / "train")))
    order = np.random.default_rng(request["seed"]).permutation(count)
    held, kept = order[::HELD], np.setdiff1d(order, order[::HELD])
    rates, scores = request["rates"], []
    if len(rates) > 1:
        scores = [tuned(request, rate, kept, ("train", held)) for rate in rates]
    best = rates[int(np.argmax(scores))] if scores else rates[0]
    top1 = tuned(request, best, order, ("val", None))
    print(json.dumps({"rate": best, "held": scores, "top1": top1}))


def tuned(request, rate, learned, asked):
    """The top-1 on a part of a folder after fine-tuning on these training images."""
    import timm
    from timm.data import ImageDataset, create_transform, resolve_model_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    root, size = Path(request["root"]), request["image_size"]
    count = sum(path.is_dir() for path in (root / "train").iterdir())
    model = timm.create_model(f"local-dir:{request['weights']}", pretrained=True, num_classes=count)
    shape = resolve_model_data_config(model) | {"input_size": (3, size, size)}
    augment = create_transform(**shape, is_training=True, hflip=request["flip_prob"])
    plain = create_transform(**shape)
    images = Subset(ImageDataset(str(root / "train"), transform=augment), learned)
    batches = DataLoader(images, request["batch_size"], shuffle=True, drop_last=False)
    steps = request["num_steps"]
    optimizer = create_optimizer_v2(model, opt="adamw", lr=rate, weight_decay=0.05)
    schedule = CosineLRScheduler(
        optimizer, t_initial=steps, warmup_t=steps // 10, warmup_prefix=False, t_in_epochs=False
    )
    average = ModelEmaV3(model, decay=request["ema_decay"], use_warmup=True)
    step = 0
    model.train()
    while step < steps:
        for pixels, labels in batches:
            schedule.step_update(step)
            loss = torch.nn.functional.cross_entropy(model(pixels), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            average.update(model, step=step)
            if step == steps:
                break
    split, places = asked
    source = ImageDataset(str(root / split), transform=plain)
    source = source if places is None else Subset(source, places)
    average.eval()
    right = 0
    with torch.inference_mode():
        for pixels, labels in DataLoader(source, 64):
            right += int((average.module(pixels).argmax(dim=1) == labels).sum())
    return right / len(source)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

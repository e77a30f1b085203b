"""PyTorch's side of `python -m dev.benchmark model`, started by it; measures when it is told to.

The argument is a JSON object. Answers are JSON lines on standard output: the versions, then for
each request the milliseconds of each call, by variant.
"""

import json
import sys
import time
from importlib import metadata

import numpy as np
import torch

import dev.torchvision_operators  # noqa: F401


def timm_model(fields):
    from timm.models.convnext import ConvNeXt

    names = {"layer_scale_init_value": "ls_init_value"}
    return ConvNeXt(**{names.get(name, name): value for name, value in fields.items()})


def transformers_model(fields):
    import transformers

    version = "V2" if fields["use_grn"] else ""
    config = getattr(transformers, f"ConvNext{version}Config")(
        depths=fields["depths"],
        hidden_sizes=fields["dims"],
        num_labels=fields["num_classes"],
        num_channels=fields["in_chans"],
        patch_size=fields["patch_size"],
        drop_path_rate=fields["drop_path_rate"],
    )
    model = getattr(transformers, f"ConvNext{version}ForImageClassification")(config)
    return _Logits(model)


class _Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def main(request):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make = {"timm": timm_model, "transformers": transformers_model}[request["project"]]
    model = make(request["fields"]).to(device, memory_format=torch.channels_last)
    model.train(request["mode"] == "training")
    rng = np.random.default_rng(0)
    size, batch_size = request["image_size"], request["batch_size"]
    shape = (batch_size, size, size, request["fields"]["in_chans"])
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(device)
    labels = rng.integers(0, request["fields"]["num_classes"], batch_size, dtype=np.int32)
    labels = torch.from_numpy(labels).long().to(device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device)
    std = torch.tensor([0.229, 0.224, 0.225], device=device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        fused=True,
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=request["dtype"] == "bfloat16")

    def logits(forward):
        # NHWC in memory, which is what channels_last is.
        with autocast:
            return forward(((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)).float()

    def inference(forward):
        with torch.inference_mode():
            return logits(forward)

    def training(forward):
        targets = torch.nn.functional.one_hot(labels, request["fields"]["num_classes"]).float()
        torch.nn.functional.cross_entropy(logits(forward), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    run = {"inference": inference, "training": training}[request["mode"]]

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(forward, seconds=2.0):
        run(forward)
        times, begin = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            run(forward)
            wait()
            times.append((time.perf_counter() - start) * 1e3)
        return times

    variants = {}
    for name, wrap in (("eager", lambda m: m), ("compile", torch.compile)):
        try:
            forward = wrap(model)
            for _ in range(3):
                run(forward)
            wait()
            variants[name] = forward
        except Exception as error:  # no compiler, say
            print(f"{name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    project = request["project"]
    answer({name: metadata.version(name) for name in ("torch", project)})
    for _ in sys.stdin:
        answer({name: milliseconds(forward) for name, forward in variants.items()})


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

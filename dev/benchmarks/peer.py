"""PyTorch's side of `python -m dev.benchmark model`, started by it; measures when it is told to.

The argument is a JSON object. Answers are JSON lines on standard output: the versions, then for
each request the milliseconds of each call, by variant: "eager", "compile", or "graphs" with CUDA
graphs; "bf16-" before it is a model that is all in bfloat16, its weights and moments too, where
the others have float32 weights under autocast.
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


COMPILED = {"compile": "default", "graphs": "reduce-overhead"}  # modes of torch.compile


def main(request):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    rng = np.random.default_rng(0)
    size, batch_size = request["image_size"], request["batch_size"]
    shape = (batch_size, size, size, request["fields"]["in_chans"])
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).to(device)
    labels = rng.integers(0, request["fields"]["num_classes"], batch_size, dtype=np.int32)
    labels = torch.from_numpy(labels).long().to(device)

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(run, seconds=2.0):
        run()
        times, begin = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            run()
            wait()
            times.append((time.perf_counter() - start) * 1e3)
        return times

    runs = {}
    for variant in request.get("variants", ("eager", "compile")):
        try:
            run = prepared(request, variant, device, images, labels)
            for _ in range(3):
                run()
            wait()
            runs[variant] = run
        except Exception as error:  # no compiler, say
            print(f"{variant}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    answer({name: metadata.version(name) for name in ("torch", request["project"])})
    for _ in sys.stdin:
        answer({variant: milliseconds(run) for variant, run in runs.items()})


def prepared(request, variant, device, images, labels):
    """One step of a variant, without arguments."""
    *pure, how = variant.split("-")
    make = {"timm": timm_model, "transformers": transformers_model}[request["project"]]
    model = make(request["fields"]).to(device, memory_format=torch.channels_last)
    dtype = torch.bfloat16 if pure else torch.float32
    model = model.to(dtype).train(request["mode"] == "training")
    forward = torch.compile(model, mode=COMPILED[how]) if how in COMPILED else model
    mean = torch.tensor([0.485, 0.456, 0.406], device=device)
    std = torch.tensor([0.229, 0.224, 0.225], device=device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        fused=True,
    )
    is_mixed = request["dtype"] == "bfloat16" and not pure
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=is_mixed)

    def logits():
        # NHWC in memory, which is what channels_last is.
        x = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).to(dtype)
        with autocast:
            return forward(x).float()

    def inference():
        with torch.inference_mode():
            return logits()

    def training():
        targets = torch.nn.functional.one_hot(labels, request["fields"]["num_classes"]).float()
        torch.nn.functional.cross_entropy(logits(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"inference": inference, "training": training}[request["mode"]]


def answer(value):
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""Lets timm and transformers import torchvision, whose wheel does not register its operators beside
a CPU build of torch: import this first. Their schemas are enough for the models."""

from torch.library import Library

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):  # missing, or without its operators
    fragment = Library("torchvision", "FRAGMENT")  # as long as it lives, so do the schemas
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")

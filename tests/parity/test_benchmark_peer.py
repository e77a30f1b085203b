"""The benchmark's peer is the same model as the one it stands beside."""

import numpy as np
import pytest
import torch

from convnext import VARIANTS, ConvNeXt
from convnext.models.convnext import abstract_params
from convnext.runs.plan import parameter_count
from dev.benchmarks import models, peer


@pytest.mark.parametrize(
    ("make", "variant"),
    [
        (peer.timm_model, "atto"),
        (peer.timm_model, "v2_atto"),
        (peer.timm_model, "large_mlp"),
        (peer.transformers_model, "atto"),
        (peer.transformers_model, "v2_atto"),
    ],
)
def test_the_peer_has_the_parameters_of_the_model(make, variant):
    model = ConvNeXt(**VARIANTS[variant], num_classes=7)
    theirs = make(models.peer_fields(model))
    assert sum(p.numel() for p in theirs.parameters()) == parameter_count(abstract_params(model))


def test_a_variant_in_bfloat16_computes_what_the_others_do():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    labels = torch.arange(4)
    fields = models.peer_fields(ConvNeXt(**VARIANTS["atto"], num_classes=7))
    logits = {}
    for variant, dtype in (("eager", "float32"), ("eager", "bfloat16"), ("bf16-eager", "float32")):
        request = dict(project="timm", fields=fields, dtype=dtype)
        torch.manual_seed(0)
        infer = peer.prepared(
            request | {"mode": "inference"}, variant, images.device, images, labels
        )
        logits[variant, dtype] = infer().numpy()
        train = peer.prepared(
            request | {"mode": "training"}, variant, images.device, images, labels
        )
        train()
    exact = logits.pop(("eager", "float32"))
    for rounded in logits.values():
        error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert 1e-5 < error < 3e-2

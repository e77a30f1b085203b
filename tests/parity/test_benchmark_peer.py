"""The benchmark's peer is the same model as the one it stands beside."""

import pytest

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

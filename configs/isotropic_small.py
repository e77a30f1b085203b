"""Isotropic ConvNeXt-S, ImageNet-1k, 224 px, 300 epochs. Top-1: 78.7 (README), 79.7 (Table 2).

    python train.py --config=configs/isotropic_small.py --config.data.root=/data/imagenet

No stages: one 16x16 stem, then all blocks at 14x14 (section 3.3 of the paper).
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.models.convnext import VARIANTS


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.model.update(VARIANTS["isotropic_small"])
    config.model.drop_path_rate = 0.1
    config.schedule.warmup_epochs = 50
    config.published.update(
        scores=dict(top1=78.7),
        source="README of facebookresearch/ConvNeXt, averaged weights; the paper says 79.7",
    )
    return config

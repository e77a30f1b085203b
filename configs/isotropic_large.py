"""Isotropic ConvNeXt-L, ImageNet-1k, 224 px, 300 epochs. Paper: 82.6 top-1.

    python train.py --config=configs/isotropic_large.py --config.data.root=/data/imagenet

No stages: one 16x16 stem, then all blocks at 14x14 (section 3.3 of the paper).
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.models.convnext import VARIANTS


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.model.update(VARIANTS["isotropic_large"])
    config.model.drop_path_rate = 0.5
    config.mix.group_size = 64
    config.schedule.warmup_epochs = 50
    config.published.scores.top1 = 82.6
    return config

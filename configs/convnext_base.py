"""ConvNeXt-B, ImageNet-1k, 224 px, 300 epochs. Paper: 83.8 top-1 (EMA weights).

python train.py --config=configs/convnext_base.py --config.data.root=/data/imagenet
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.models.convnext import VARIANTS


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.model.update(VARIANTS["base"])
    config.model.drop_path_rate = 0.5
    config.published.scores.top1 = 83.8
    return config

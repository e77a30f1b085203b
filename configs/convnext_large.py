"""ConvNeXt-L, ImageNet-1k, 224 px, 300 epochs. Paper: 84.3 top-1 (EMA weights).

python train.py --config=configs/convnext_large.py --config.data.root=/data/imagenet
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.models.convnext import VARIANTS


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.model.update(VARIANTS["large"])
    config.model.drop_path_rate = 0.5
    config.mix.group_size = 64
    config.published.scores.top1 = 84.3
    return config

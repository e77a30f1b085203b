"""ConvNeXt-XL, ImageNet-22k pre-training, 224 px, 90 epochs (fine-tuned on 1k: 87.0 top-1).

    python train.py --config=configs/convnext_xlarge.py --config.data.root=/data/imagenet22k

The paper trains XL on ImageNet-22k only (fall 2011, 21,841 classes, 14,197,122 images), without
averages of the weights and without evaluation; here root/val is whatever is kept back.
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.model import VARIANTS


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.model.update(VARIANTS["xlarge"])
    config.num_epochs = 90
    config.data.root = "data/imagenet22k"
    config.model.update(num_classes=21841, drop_path_rate=0.2)
    config.mix.group_size = 32
    config.schedule.warmup_epochs = 5
    config.ema_decays = ()
    return config

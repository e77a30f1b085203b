"""ConvNeXt-XL, ImageNet-22k pre-training, 224 px, 90 epochs (fine-tuned on 1k: 87.0 top-1).

    python train.py --config=configs/convnext_xlarge.py --config.data.root=/data/imagenet22k

The paper trains XL on ImageNet-22k only: this is imagenet22k.py:xlarge.
"""

from ml_collections import ConfigDict

from configs import imagenet22k


def get_config() -> ConfigDict:
    return imagenet22k.get_config("xlarge")

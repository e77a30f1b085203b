"""CIFAR-100 with its 100 fine classes (see cifar10.py).

python train.py --config=configs/cifar100.py --config.data.root=cifar-100-python.tar.gz
"""

from ml_collections import ConfigDict

from configs import cifar10

ROWS = cifar10.ROWS


def get_config(patch_size: str = "2") -> ConfigDict:
    config = cifar10.get_config(patch_size)
    config.data.name = "cifar100"
    config.model.num_classes = 100
    return config

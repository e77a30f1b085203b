"""ConvNeXt for the 32 pixels of CIFAR-10, from scratch, 300 epochs.

    python train.py --config=configs/cifar10.py --config.data.root=cifar-10-python.tar.gz
    python train.py --config=configs/cifar10.py:1 --config.data.root=cifar-10-python.tar.gz

The archive is that of https://www.cs.toronto.edu/~kriz/cifar.html. Without data.root the data set
of TensorFlow Datasets is read. The stem's patches have a side of 2 pixels, or of 1 (four times the
work): the recipe's 4 would leave the last stage one pixel. The model is nano, the batch 1024 with
the recipe's rate for it, and small images are cropped as in the official code.

It has not been trained to its end, so there is no accuracy yet.
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.errors import require
from convnext.models.convnext import VARIANTS

ROWS = ("2", "1")


def get_config(patch_size: str = "2") -> ConfigDict:
    require(patch_size in ROWS, "the side of the patches", patch_size, ", ".join(ROWS))
    config = convnext_tiny.get_config()
    config.batch_size = 1024
    config.image_size = 32
    config.data.update(name="cifar10", root=None)
    config.published.update(scores=dict(top1=None), source=None, train_size=50_000, val_size=10_000)
    config.num_workers = 4
    config.augment.crop_padding = 4
    config.preprocess.crop_pct = 1.0  # nothing is cut off

    config.model.update(VARIANTS["nano"])
    config.model.update(num_classes=10, patch_size=int(patch_size))
    config.schedule.peak_lr = 1e-3  # a quarter of that for 4096
    config.ema_decays = (0.999,)  # about 20 epochs
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 10
    return config

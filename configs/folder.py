"""Small ConvNeXt from scratch on your own images, one folder a class.

    python train.py --config=configs/folder.py --config.data.root=PATH

PATH holds train/<class>/ and val/<class>/ with jpg, png or webp files. It may also hold <class>/
alone; then a fifth of each class becomes validation images. Name another variant after a colon. To
start from published weights, it must be the variant of these:

    python train.py --config=configs/folder.py:v2_nano --config.data.root=PATH \\
        --config.init_from=timm/convnextv2_nano.fcmae_ft_in1k
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.errors import require
from convnext.models.convnext import VARIANTS


def get_config(variant: str = "atto") -> ConfigDict:
    config = convnext_tiny.get_config()
    config.num_epochs = 100
    config.batch_size = 64
    config.image_size = 128
    config.data.update(root=None, val_fraction=0.2)
    config.published.update(scores=dict(top1=None), source=None, train_size=None, val_size=None)
    config.num_workers = 2
    config.augment.crop_scale = (0.25, 1.0)  # milder than the recipe's: the run is short

    require(variant in VARIANTS, "the variant", variant, ", ".join(VARIANTS))
    config.model.update(VARIANTS[variant])  # atto has 3.4 M parameters without the head
    config.model.update(num_classes=None, dtype="float32")
    config.schedule.update(peak_lr=1e-3, warmup_epochs=5)
    config.ema_decays = (0.999,)
    config.ema_warmup = True  # 1,000 updates may be more than the run has
    config.eval_every_epochs = config.checkpoint_every_epochs = 5
    return config

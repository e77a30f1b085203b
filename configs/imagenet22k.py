"""ImageNet-22k pre-training, 224 px, 90 epochs, of tiny, small, base, large or xlarge.

    python train.py --config=configs/imagenet22k.py:base --config.data.root=/data/imagenet22k

The published accuracies are those after fine-tuning: see imagenet22k_to_1k.py. ImageNet-22k is that
of fall 2011, 21,841 classes, 14,197,122 images. The paper trains without EMA and without
evaluation. Here root/val holds any images that are kept back.
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.errors import require
from convnext.models.convnext import VARIANTS

# Of the paper's Table 5; base to xlarge also in TRAINING.md of the official code.
DROP_PATH_RATES = dict(tiny=0.0, small=0.0, base=0.1, large=0.1, xlarge=0.2)


def get_config(variant: str = "base") -> ConfigDict:
    require(variant in DROP_PATH_RATES, "the variant", variant, ", ".join(DROP_PATH_RATES))
    config = convnext_tiny.get_config()
    config.num_epochs = 90
    config.data.root = "data/imagenet22k"
    config.mix.group_size = 32
    config.model.update(VARIANTS[variant])
    config.model.update(num_classes=21841, drop_path_rate=DROP_PATH_RATES[variant])
    config.schedule.warmup_epochs = 5
    config.ema_decays = ()
    config.published.update(
        scores=dict(top1=None),
        source="of 22k itself; once fine-tuned, see configs/imagenet22k_to_1k.py",
        train_size=14_197_122,
        val_size=0,
    )
    return config

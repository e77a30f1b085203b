"""Fine-tuning of ImageNet-1k weights of 224 px at 384 px, base or large, 30 epochs.

    python train.py --config=configs/imagenet1k_384.py:large --config.data.root=/data/imagenet

Top-1 (README of the official code): base 85.1, large 85.5. base starts from the last weights of its
run, convnext_base_1k_224.pth of https://dl.fbaipublicfiles.com/convnext/, large from the EMA
(appendix A.2 of the paper).
"""

from ml_collections import ConfigDict

from configs import imagenet22k_to_1k
from convnext.errors import require
from convnext.models.convnext import VARIANTS

# Drop path rate, the weights to start from, and top-1 (README of the official code).
ROWS = dict(
    base=(0.8, "convnext_base_1k_224.pth", 85.1),
    large=(0.95, "timm/convnext_large.fb_in1k", 85.5),
)


def get_config(variant: str = "base") -> ConfigDict:
    require(variant in ROWS, "the variant", variant, ", ".join(ROWS))
    drop_path_rate, weights, top1 = ROWS[variant]
    config = imagenet22k_to_1k.fine_tuning()
    config.image_size = 384
    config.init_from = weights
    config.model.update(VARIANTS[variant])
    config.model.drop_path_rate = drop_path_rate
    config.optimizer.layer_decay = 0.7
    config.published.scores.top1 = top1
    return config

"""ConvNeXt V2, fine-tuned from its masked autoencoders (https://arxiv.org/abs/2301.00808).

    python train.py --config=configs/convnextv2.py:tiny --config.data.root=/data/imagenet
    python train.py --config=configs/convnextv2.py:tiny_22k --config.data.root=/data/imagenet22k
    python train.py --config=configs/convnextv2.py:tiny_22k_1k_384 --config.data.root=/data/imagenet

The first fine-tunes the published autoencoder on ImageNet-1k, the second on ImageNet-22k. The third
continues from the second on ImageNet-1k. Top-1 (README of ConvNeXt-V2):

                   atto  femto pico  nano  tiny  base  large huge
    1k       224 px 76.7  78.5  80.3  81.9  83.0  84.9  85.8  86.3
    22k, 1k  224 px                   82.1  83.9  86.8  87.3
    22k, 1k  384 px                   83.4  85.1  87.7  88.2  88.7
    22k, 1k  512 px                                           88.9

atto, tiny and base on 1k are from TRAINING.md of that code, as is the number of images that are
mixed with each other, for all of 1k. The rest is from Tables 9 to 13 of the paper, not checked
against code. For base they print ten times the rate of TRAINING.md, and for large the same as for
base. So large has the rate of TRAINING.md for base here.
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.errors import require
from convnext.models.convnext import VARIANTS

# Rate, epochs, warm-up epochs, layer decay and its type, weight decay, drop path rate, alphas of
# mixup and CutMix, label smoothing, averages. Rates are for batches of 1024, 4096 (22k) and 512
# (22k to 1k).
ON_1K = dict(
    atto=(8e-4, 600, 0, 0.9, "single", 0.3, 0.1, (0.0, 0.0), 0.2, (0.9999,)),
    femto=(8e-4, 600, 0, 0.9, "single", 0.05, 0.0, (0.3, 0.3), 0.2, (0.9999,)),
    pico=(8e-4, 600, 0, 0.9, "single", 0.3, 0.0, (0.3, 0.3), 0.2, (0.9999,)),
    nano=(8e-4, 600, 0, 0.9, "single", 0.3, 0.1, (0.5, 0.5), 0.2, (0.9999,)),
    tiny=(3.2e-3, 300, 40, 0.9, "single", 0.05, 0.2, (0.8, 1.0), 0.1, (0.9999,)),
    base=(2.5e-3, 100, 20, 0.6, "group", 0.05, 0.1, (0.8, 1.0), 0.1, (0.9999,)),
    large=(2.5e-3, 100, 20, 0.6, "group", 0.05, 0.2, (0.8, 1.0), 0.1, (0.9999,)),
    huge=(5e-3, 50, 10, 0.75, "single", 0.05, 0.3, (0.8, 1.0), 0.1, (0.9999,)),
)
ON_22K = dict(
    nano=(4e-3, 90, 5, 0.9, "single", 0.05, 0.0, (0.8, 1.0), 0.1, ()),
    tiny=(4e-3, 90, 5, 0.9, "single", 0.05, 0.0, (0.8, 1.0), 0.1, ()),
    base=(4e-3, 90, 5, 0.8, "group", 0.05, 0.1, (0.8, 1.0), 0.1, ()),
    large=(4e-3, 90, 5, 0.8, "group", 0.05, 0.1, (0.8, 1.0), 0.1, ()),
    huge=(4e-3, 90, 5, 0.8, "single", 0.05, 0.3, (0.8, 1.0), 0.1, ()),
)
FROM_22K = dict(
    nano=(5e-5, 90, 0, 0.9, "single", 1e-8, 0.1, (0.0, 0.0), 0.1, (0.9999,)),
    tiny=(5e-5, 90, 0, 0.9, "single", 1e-8, 0.1, (0.0, 0.0), 0.1, (0.9999,)),
    base=(5e-5, 30, 0, 0.8, "group", 1e-8, 0.2, (0.0, 0.0), 0.1, (0.9999,)),
    large=(5e-5, 30, 0, 0.8, "group", 1e-8, 0.3, (0.0, 0.0), 0.1, (0.9999,)),
    huge=(5e-5, 30, 0, 0.85, "single", 1e-8, 0.5, (0.0, 0.0), 0.1, ()),
)
# README of ConvNeXt-V2.
TOP1 = dict(
    atto=76.7, femto=78.5, pico=80.3, nano=81.9, tiny=83.0, base=84.9, large=85.8, huge=86.3,
    nano_22k_1k_224=82.1, tiny_22k_1k_224=83.9, base_22k_1k_224=86.8, large_22k_1k_224=87.3,
    nano_22k_1k_384=83.4, tiny_22k_1k_384=85.1, base_22k_1k_384=87.7, large_22k_1k_384=88.2,
    huge_22k_1k_384=88.7, huge_22k_1k_512=88.9,
)  # fmt: skip
# Name: row, batch, pixels, classes, weights to start from.
ROWS = {
    **{size: (row, 1024, 224, 1000, f"timm/convnextv2_{size}.fcmae")
       for size, row in ON_1K.items()},
    **{f"{size}_22k": (row, 4096, 224, 21841, f"timm/convnextv2_{size}.fcmae")
       for size, row in ON_22K.items()},
    **{f"{size}_22k_1k_{pixels}": (row, 512, pixels, 1000, f"runs/convnextv2_{size}_22k")
       for size, row in FROM_22K.items()
       for pixels in ((384, 512) if size == "huge" else (224, 384))},
}  # fmt: skip


def get_config(name: str = "tiny") -> ConfigDict:
    require(name in ROWS, "the variant", name, ", ".join(ROWS))
    row, batch_size, image_size, num_classes, weights = ROWS[name]
    (peak_lr, num_epochs, warmup_epochs, layer_decay, layer_decay_type, weight_decay,
     drop_path_rate, (mixup_alpha, cutmix_alpha), label_smoothing, ema_decays) = row  # fmt: skip
    config = convnext_tiny.get_config()
    config.num_epochs = num_epochs
    config.batch_size = batch_size
    config.image_size = image_size
    config.init_from = weights
    if num_classes == 21841:
        config.data.root = "data/imagenet22k"
        config.published.update(
            scores=dict(top1=None),
            source="of 22k itself; once fine-tuned, see the variants with 22k_1k",
            train_size=14_197_122,
            val_size=0,
        )
    else:
        config.published.update(
            scores=dict(top1=TOP1[name]), source="README of facebookresearch/ConvNeXt-V2"
        )
        # Images on a GPU: 4 nodes of 8 with a batch_size of 32 (TRAINING.md).
        config.mix.group_size = 32
    config.mix.update(
        mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, label_smoothing=label_smoothing
    )
    config.model.update(VARIANTS[f"v2_{name.partition('_')[0]}"])
    config.model.update(
        num_classes=num_classes, drop_path_rate=drop_path_rate, head_init_scale=0.001
    )
    config.schedule.update(peak_lr=peak_lr, warmup_epochs=warmup_epochs, v2=True)
    config.optimizer.update(
        weight_decay=weight_decay, layer_decay=layer_decay, layer_decay_type=layer_decay_type
    )
    config.ema_decays = ema_decays
    return config

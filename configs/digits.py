"""The 1,797 handwritten digits that ship with scikit-learn, in two minutes on two CPU cores.

python train.py --config=configs/digits.py
"""

from ml_collections import ConfigDict

from configs import convnext_tiny


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.num_epochs = 130
    config.batch_size = 64
    config.image_size = 16  # of originals of 8

    config.data.update(name="digits", root=None)
    config.published.update(scores=dict(top1=None), source=None, train_size=None, val_size=None)
    config.num_workers = 0
    config.augment_on = "device"
    # A digit has no mirror image, and its edges matter.
    config.augment.update(
        crop_scale=None,
        flip_prob=0.0,
        affine_degrees=20.0,
        affine_translate=0.12,
        affine_scale=(0.7, 1.3),
        affine_shear=20.0,
        gamma=0.7,  # pens differ
    )
    config.augment.randaugment.num_ops = 0
    config.preprocess.crop_pct = 1.0
    config.erase.prob = 0.0
    config.mix.update(mixup_alpha=0.0, cutmix_alpha=0.0)

    config.model.update(
        depths=(1, 1, 1), dims=(24, 48, 96), num_classes=10, patch_size=2, dtype="float32"
    )
    config.schedule.warmup_epochs = 5
    config.optimizer.weight_decay = 0.3
    config.ema_decays = (0.998,)  # about 23 epochs

    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 10
    config.log.every_steps = 22  # an epoch
    return config

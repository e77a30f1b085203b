"""FCMAE on the digits that ship with scikit-learn, in a minute on two CPU cores.

    python train.py --config=configs/fcmae_digits.py

Six of the sixteen patches of 4 pixels are seen. The labels of the digits are not looked at.
"""

from ml_collections import ConfigDict

from configs import fcmae


def get_config() -> ConfigDict:
    config = fcmae.get_config("atto")
    config.num_epochs = 40
    config.batch_size = 64
    config.image_size = 16  # of originals of 8

    config.data.update(name="digits", root=None)
    config.published.update(train_size=None, val_size=None)
    config.num_workers = 0
    config.augment_on = "device"
    # A digit has no mirror image, and its edges matter.
    config.augment.update(
        crop_scale=None,
        flip_prob=0.0,
        affine_degrees=20.0,
        affine_translate=0.12,
        affine_scale=(0.7, 1.3),
    )
    config.preprocess.crop_pct = 1.0

    config.model.update(depths=(2, 2), dims=(32, 64), patch_size=2, decoder_dim=64, dtype="float32")
    config.schedule.update(peak_lr=2e-3, warmup_epochs=4)
    config.eval_every_epochs = 4
    config.checkpoint_every_epochs = 8
    config.log.every_steps = 22  # an epoch
    return config

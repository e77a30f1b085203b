"""A small run of masked pre-training on the digits."""

from configs import fcmae_digits

SMALL = {
    "num_epochs": 2, "batch_size": 128, "eval_every_epochs": 1, "checkpoint_every_epochs": 1,
    "model.depths": (1, 1), "model.dims": (8, 16), "model.decoder_dim": 16,
    "schedule.warmup_epochs": 1, "log.every_steps": 1,
}  # fmt: skip


def config_of(**changes):
    config = fcmae_digits.get_config()
    config.update_from_flattened_dict({**SMALL, **changes})
    return config

"""ConvNeXt V2, pre-trained as a masked autoencoder, FCMAE (https://arxiv.org/abs/2301.00808).

    python train.py --config=configs/fcmae.py:tiny --config.data.root=/data/imagenet

The recipe is the same for every size (Table 8 of the paper, main_pretrain.py and TRAINING.md of
ConvNeXt-V2). No loss is published. Fine-tuned on ImageNet-1k at 224 px, as configs/convnextv2.py
does, the paper's weights have a top-1 of (Table 14; V2 without pre-training in the second row)

    atto  femto pico  nano  tiny  base  large huge
    76.7  78.5  80.3  81.9  83.0  84.9  85.8  86.3
    76.2  78.0  79.7  81.2  82.5  84.3  84.5

Base, large and huge after 1600 epochs; after 800 they have 84.6, 85.6 and 85.8.
"""

from ml_collections import ConfigDict, config_dict

from configs import convnext_tiny
from convnext.errors import require
from convnext.models.convnext import VARIANTS

# Of the recipe in configs/convnext_tiny.py: what a task without labels does not have.
NOT_OURS = ("class_weights", "erase", "linear", "mix", "problem_type")
NOT_OF_THE_MODEL = ("num_classes", "final_norm_eps", "head_norm_first", "head_hidden_size",
                    "head_init_scale")  # fmt: skip
ROWS = tuple(name.removeprefix("v2_") for name in VARIANTS if name.startswith("v2_"))


def get_config(size: str = "tiny") -> ConfigDict:
    require(size in ROWS, "the size", size, ", ".join(ROWS))
    config = convnext_tiny.get_config()
    with config.unlocked():
        for name in NOT_OURS:
            del config[name]
        for name in NOT_OF_THE_MODEL:
            del config.model[name]
        config.task = "fcmae"
        config.norm_pix_loss = True  # predict patches of mean 0 and deviation 1, not pixels
        config.model.decoder_dim = 512  # channels of the decoder
        config.model.decoder_depth = 1  # blocks of the decoder
        config.model.mask_ratio = 0.6  # share of the patches that is masked
        config.published.scores = ConfigDict(dict(loss=config_dict.placeholder(float)))
        del config.schedule.peak_lr
        # For a whole batch; None: 1.5e-4 * batch_size / 256.
        config.schedule.peak_lr = config_dict.placeholder(float)
    config.num_epochs = 1600
    config.batch_size = 4096
    config.published.source = None
    config.augment.crop_scale = (0.2, 1.0)
    config.augment.randaugment.num_ops = 0
    config.model.update(VARIANTS[f"v2_{size}"], drop_path_rate=0.0)
    config.schedule.update(end_lr=0.0, warmup_epochs=40, v2=True)
    config.optimizer.b2 = 0.95
    config.ema_decays = ()
    config.eval_every_epochs = 10
    config.checkpoint_every_epochs = 10
    return config

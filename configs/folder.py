"""A ConvNeXt from scratch on your own images: from random weights, for which one wants thousands of
images. With fewer, configs/finetune.py gets further in less time.

    python train.py --config=configs/folder.py --config.data.root=my_images

my_images is as for configs/finetune.py. Name another variant after a colon: configs/folder.py:tiny.
What depends on the images is open here, and chosen from how many there are when the run begins
(convnext/tasks/recipe.py). The run prints each choice, and --dry_run too; any of them may be given.
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.errors import require
from convnext.models.convnext import VARIANTS
from convnext.tasks import recipe


def get_config(variant: str = "atto") -> ConfigDict:
    config = convnext_tiny.get_config()
    config.rule = "scratch"
    config.data.update(root=None, val_fraction=0.2, exif_orientation=True)
    config.published.update(scores=dict(top1=None), source=None, train_size=None, val_size=None)

    require(variant in VARIANTS, "the variant", variant, ", ".join(VARIANTS))
    config.model.update(VARIANTS[variant])  # atto has 3.4 M parameters without the head
    config.model.num_classes = None
    config.schedule.warmup_epochs = 0
    config.ema_warmup = True
    recipe.leave_open(config, (*recipe.of_a_fresh_model(config.model), *recipe.OF_THE_DATA))
    return config

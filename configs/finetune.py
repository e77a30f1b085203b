"""Fine-tuning of published weights on your own images.

    python train.py --config=configs/finetune.py --config.data.root=my_images

my_images holds a folder of images for each class, or what else docs/own_data.md says. It starts
from timm's ConvNeXt atto, trained on ImageNet-1k, which is small enough for a laptop and of the
Apache-2.0 licence. --config.init_from=timm/convnext_nano.in12k_ft_in1k, or other weights, change
the model with it: the architecture, the size and the normalisation are those of the weights.

What depends on the images is open here, and chosen from how many there are when the run begins
(convnext/tasks/recipe.py). The run prints each choice, and --dry_run too; any of them may be given.
"""

from ml_collections import ConfigDict

from configs import convnext_tiny
from convnext.tasks import recipe


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    config.rule = "finetune"
    config.init_from = "timm/convnext_atto.d2_in1k"
    config.data.update(root=None, val_fraction=0.2, exif_orientation=True)
    config.published.update(scores=dict(top1=None), source=None, train_size=None, val_size=None)
    config.model.num_classes = None
    config.schedule.warmup_epochs = 0
    config.optimizer.layer_decay_type = "single"  # which models of any depth have
    config.ema_warmup = True
    recipe.leave_open(config, recipe.OF_THE_WEIGHTS + recipe.OF_THE_DATA)
    return config

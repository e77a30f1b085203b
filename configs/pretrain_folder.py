"""FCMAE on your own images, which need no labels and no classes: they may lie in folders of any
kind. For some ten thousand images and more; with fewer, start from published weights.

    python train.py --config=configs/pretrain_folder.py --config.data.root=my_images
        [--config.init_from=timm/convnextv2_atto.fcmae]

Which images are validated on follows from a hash of their names. Name another size after a colon:
configs/pretrain_folder.py:tiny. Then fine-tune on those that have labels:

    python train.py --config=configs/finetune.py --config.init_from=runs/pretrain_folder
        --config.data.root=my_labelled_images
"""

from ml_collections import ConfigDict

from configs import fcmae


def get_config(size: str = "atto") -> ConfigDict:
    config = fcmae.get_config(size)
    config.num_epochs = 400
    config.batch_size = 64
    config.data.update(root=None, val_fraction=0.02, exif_orientation=True)
    config.published.update(train_size=None, val_size=None)
    config.num_workers = 4
    config.model.dtype = "float32"
    config.log.every_steps = 50
    return config

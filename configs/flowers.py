"""Fine-tuning of ImageNet-22k weights on Oxford's 102 flowers, 224 px, 100 epochs.

    python train.py --config=configs/flowers.py --config.data.root=flowers

The folder holds 102flowers.tgz, unpacked, imagelabels.mat and setid.mat of
https://www.robots.ox.ac.uk/~vgg/data/flowers/102. Without data.root the data set of TensorFlow
Datasets is read. The training images are both published splits of 1,020, the validation images the
6,149 test images. The recipe is that of the paper's fine-tunings, but with twice the rate and a
warm-up, since the head is new and there are only 1,500 updates.

It has not been run on the flowers themselves, so there is no accuracy yet.
"""

from ml_collections import ConfigDict

from configs import imagenet22k_to_1k


def get_config() -> ConfigDict:
    config = imagenet22k_to_1k.get_config("tiny_224")
    config.num_epochs = 100
    config.batch_size = 128
    config.data.update(
        name="oxford_flowers102", root=None, train_split="train+validation", val_split="test"
    )
    config.published.update(scores=dict(top1=None), source=None, train_size=2_040, val_size=6_149)
    config.model.update(num_classes=102, drop_path_rate=0.1)
    config.schedule.update(peak_lr=1e-4, warmup_epochs=5)
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 10
    config.log.every_steps = 15  # an epoch
    return config

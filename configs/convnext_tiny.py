"""ConvNeXt-T, ImageNet-1k, 224 px, 300 epochs. Paper: 82.1 top-1 (EMA weights).

    python train.py --config=configs/convnext_tiny.py --config.data.root=/data/imagenet

This is the recipe: every field of every config, with its unit and source. It is Table 5 of
https://arxiv.org/abs/2201.03545 and the official code's defaults. The other configs set only what
differs.
"""

from ml_collections import ConfigDict, config_dict

from convnext.models.convnext import VARIANTS

# A value that may also be None, and the type that it has otherwise.
given = config_dict.FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "classification"  # what is trained: a name of convnext.tasks
    config.seed = 0  # of the weights, the order of the images, and whatever is drawn
    config.num_epochs = 300  # passes over the training images
    config.num_steps = config_dict.placeholder(int)  # updates; None: as many as num_epochs has
    config.batch_size = 4096  # images per update, over all devices; the rate below is for 4096
    config.accumulation_steps = 1  # parts in which a batch passes through the model
    config.image_size = 224  # pixels
    # "single_label_classification", "multi_label_classification" or "regression"; None: by the
    # labels (losses.problem_type).
    config.problem_type = config_dict.placeholder(str)
    # "balanced": the loss of a class weighs by 1 / its number of images; None: each image alike.
    config.class_weights = config_dict.placeholder(str)
    # Weights to start from: whatever convnext.from_pretrained takes; None: random ones.
    config.init_from = config_dict.placeholder(str)
    # What decides the fields that are None: a rule of tasks/recipe.py, "finetune" or "scratch";
    # None: nothing does.
    config.rule = config_dict.placeholder(str)
    config.decided = config_dict.placeholder(tuple)  # the rule writes here what it decided
    config.given = config_dict.placeholder(tuple)  # and here which fields it found given
    config.licence = config_dict.placeholder(str)  # of init_from, as it states it
    # A linear classifier on the features of init_from (tasks/linear.py).
    config.linear = ConfigDict(
        dict(
            is_head=given(False, bool),  # whether the head begins as it, not at random
            is_baseline=given(False, bool),  # whether its score is printed beside the run's
            top1=config_dict.placeholder(float),  # None: is computed when the run begins
        )
    )

    config.data = ConfigDict(
        dict(
            name="folder",  # "arrayrecord", "parquet", "digits", or of TFDS: "imagenet2012"
            root=given("data/imagenet", str),  # of the folders train/<class> and val/<class>
            val_fraction=config_dict.placeholder(float),  # share of train kept to validate on
            train_split=config_dict.placeholder(str),  # of TFDS, parquet, folders; None: "train"
            val_split=config_dict.placeholder(str),  # None: "validation", or else "test"
            exif_orientation=False,  # turn images as their EXIF data say; predicting always does
        )
    )
    config.published = ConfigDict(  # what a dry run expects
        dict(
            # By the names that a task has for its scores; percent, None: nothing is published.
            scores=dict(top1=given(82.1, float)),
            source=given("README of facebookresearch/ConvNeXt, averaged weights", str),  # of scores
            train_size=given(1_281_167, int),  # images, where the data is not at hand
            val_size=given(50_000, int),
        )
    )
    config.num_workers = 8  # processes that decode and augment; 0: a thread of this one
    config.max_bad_images = 0  # skipped as unreadable, by all hosts; one more ends the run

    # Where images are augmented: "host", or "device", where that has all of it
    # (training/augmentation.py), for small ones that a host makes too slowly.
    config.augment_on = "host"
    config.augment = ConfigDict(
        dict(
            crop_scale=given((0.08, 1.0), tuple),  # of the area; None: the whole image
            crop_ratio=(3 / 4, 4 / 3),  # width / height
            # Pixels of a black frame; crops of the size of the image are taken from it instead.
            crop_padding=config_dict.placeholder(int),
            flip_prob=0.5,  # of mirroring left and right
            randaugment=dict(
                num_ops=2,  # operations drawn for an image; 0: none
                magnitude=9.0,  # mean, of 0 to 10
                magnitude_std=0.5,
                increasing=True,  # more magnitude, more change
                prob=0.5,  # of applying an operation that was drawn
            ),
            three_augment=False,  # DeiT III's 3-Augment
            color_jitter=0.0,  # brightness, contrast and saturation, by 1 +- so much
            affine_degrees=0.0,  # rotation, at most
            affine_translate=0.0,  # share of a side, at most
            affine_scale=(1.0, 1.0),  # range of the zoom
            affine_shear=0.0,  # degrees, at most
            gamma=0.0,  # levels to the power of exp(u), u uniform in [-gamma, gamma]
        )
    )
    config.preprocess = ConfigDict(
        dict(
            crop_pct=0.875,  # side of the central crop, below 384 pixels
            crop_mode=config_dict.placeholder(str),  # or timm's "center", "squash" at any size
            crop_rounding="round",  # of half a pixel; transformers has "floor"
            resample=3,  # Pillow's number of the filter: bicubic
        )
    )
    config.normalize = ConfigDict(
        dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # of ImageNet, in RGB
    )
    config.erase = ConfigDict(
        dict(
            prob=0.25,  # of filling a box of the image with noise
            area=(0.02, 1 / 3),  # of the box, as a share of the image's
            min_aspect=0.3,  # height / width, at least; at most 1 / min_aspect
        )
    )
    config.mix = ConfigDict(
        dict(
            mode="batch",  # a group shares its draws; "pair": two images do; "elem": none
            mixup_alpha=0.8,  # lambda ~ Beta(alpha, alpha); 0: no mixup
            cutmix_alpha=1.0,  # likewise of CutMix
            prob=1.0,  # of mixing at all
            switch_prob=0.5,  # of CutMix rather than mixup
            label_smoothing=0.1,
            group_size=128,  # images mixed with each other: the official batch per GPU
        )
    )

    config.model = ConfigDict(
        dict(
            **VARIANTS["tiny"],
            num_classes=given(1000, int),  # None: as many as the data has
            in_chans=3,  # channels of an image
            patch_size=4,  # pixels, side of the stem's patches
            stem_norm=True,  # a norm after the stem; isotropic models have none
            use_grn=False,  # V2's Global Response Normalization
            norm_eps=1e-6,  # of every other norm
            final_norm_eps=1e-6,  # of the norm after pooling
            head_norm_first=False,  # that norm before pooling
            head_hidden_size=config_dict.placeholder(int),  # None: the head is one linear layer
            drop_path_rate=0.1,  # of the last block
            layer_scale_init_value=given(1e-6, float),  # None: no LayerScale
            head_init_scale=1.0,  # factor on the initial weights of the head
            remat=False,  # recompute blocks in the backward pass, to save memory
            dtype="bfloat16",  # of the computation; the paper trained in float32
            residual_dtype="float32",  # of the sums along the blocks; bfloat16 moves fewer bytes
            kernels="auto",  # "lax": without our own for NVIDIA GPUs
            train_precision="default",  # of float32 products; "highest": float32, not TF32
        )
    )

    config.schedule = ConfigDict(
        dict(
            kind="cosine",  # or "poly", mmsegmentation's; or "step", mmdetection's
            peak_lr=4e-3,  # after the warm-up, for a whole batch
            end_lr=1e-6,  # of step: the lowest rate
            warmup_epochs=20,
            warmup_steps=config_dict.placeholder(int),  # updates; None: as warmup_epochs says
            warmup_ratio=0.0,  # share that the first rate has; UPerNet: 1e-6, Mask R-CNN: 1e-3
            v2=False,  # ConvNeXt-V2's cosine, which peaks one step later
            power=1.0,  # of poly, mmsegmentation's
            milestone_epochs=(),  # of step: times factor after each of these; Mask R-CNN: (27, 33)
            milestone_steps=(),  # of step: as milestone_epochs, in updates
            factor=0.1,  # of step, mmdetection's
        )
    )
    config.optimizer = ConfigDict(
        dict(
            weight_decay=0.05,  # times the rate; not of norms, biases and gamma
            weight_decay_end=config_dict.placeholder(float),  # of a cosine; None: constant
            b1=0.9,  # of AdamW
            b2=0.999,  # of AdamW
            eps=1e-8,  # of AdamW
            clip_norm=config_dict.placeholder(float),  # of all gradients together; None: no bound
            layer_decay=1.0,  # factor on the rate per group of layers, from the head down
            layer_decay_type="group",  # or another of optimizer.layer_scales
        )
    )
    config.max_skipped = 10  # updates in a row whose loss or gradients are not finite, to stop at
    config.frozen = config_dict.placeholder(str)  # regular expression; "^(?!head/)": linear probe
    config.ema_decays = (0.9999,)  # EMA of the weights; the first is the one reported
    config.ema_warmup = False  # EMA that forgets faster at first, for short runs

    config.mesh = ConfigDict(dict(data=-1, fsdp=1))  # devices; -1: all that fsdp leaves
    config.eval_every_epochs = 1  # between scores; they come after the last update, too
    config.eval_every_steps = config_dict.placeholder(int)  # None: by the epochs
    # Evaluations without a better score after which a run ends; None: it never does so.
    config.patience = config_dict.placeholder(int)
    config.checkpoint_every_epochs = 1  # between checkpoints, likewise
    config.checkpoint_every_steps = config_dict.placeholder(int)  # None: by the epochs
    config.keep_checkpoints = 3  # the latest, beside the best; 2 and more
    config.on_save_error = "stop"  # the run; or "continue", with the earlier checkpoints
    config.log = ConfigDict(
        dict(
            every_steps=50,  # between lines of the log
            wandb_project=config_dict.placeholder(str),  # None: no Weights & Biases
        )
    )
    return config.lock()

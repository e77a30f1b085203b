"""The models, what they return, and the pipeline."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from convnext.classifier import Classifier
from convnext.errors import InputError, require
from convnext.files import text
from convnext.images import addresses
from convnext.images.processor import ImageProcessor
from convnext.models.convnext import ConvNeXt
from convnext.training import losses
from convnext.transformers import config as configs
from convnext.transformers import images
from convnext.transformers.config import ConvNextConfig, ConvNextV2Config
from convnext.transformers.images import ConvNextImageProcessor
from convnext.weights import model_config, pretrained, save

TASK = "image-classification"  # of the pipeline


class ModelOutput(dict):
    """What a model returns, in order: by attribute, by name, by number or as a tuple. A field that
    was not asked for is not there, and None as an attribute. A pytree."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda output: (
                tuple((jax.tree_util.GetAttrKey(name), value) for name, value in output.items()),
                tuple(output),
            ),
            lambda names, values: cls(zip(names, values, strict=True)),
        )

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Makes it of the values that are not None."""
        return cls((name, values[name]) for name in cls.fields if values.get(name) is not None)

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}, but {', '.join(self.fields)}")

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple:
        """Returns the values that are there."""
        return tuple(self.values())


class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """last_hidden_state [N, C, h, w], before any norm; pooler_output [N, C]; hidden_states, the
    outputs of the stem and of each stage."""

    fields = ("last_hidden_state", "pooler_output", "hidden_states")


class ImageClassifierOutputWithNoAttention(ModelOutput):
    """loss, a scalar, where labels were given; logits [N, num_labels]; hidden_states."""

    fields = ("loss", "logits", "hidden_states")


class _Pretrained:
    """What the models have in common."""

    config_class: ClassVar[type[ConvNextConfig]] = ConvNextConfig
    has_head: ClassVar[bool] = False

    def __init__(
        self,
        config: ConvNextConfig,
        seed: int = 0,
        dtype: Any = jnp.float32,
        *,
        params: Any = None,
        processor: ImageProcessor | None = None,
    ):
        """config: of the class of this model. seed: of random parameters, where params are None.
        dtype: of the computation. processor: is saved beside the model."""
        accepted = f"a {self.config_class.__name__}"
        is_ours = getattr(config, "model_type", None) == self.config_class.model_type
        require(is_ours, f"the config of {type(self).__name__}", type(config).__name__, accepted)
        self.config, self.processor = config, processor
        fields = model_config.read(config.to_dict()).fields
        count = config.num_labels if self.has_head else 0
        self.module = ConvNeXt(**fields, num_classes=count or None, dtype=dtype)
        self.params = self.init_weights(jax.random.key(seed)) if params is None else params

    def init_weights(self, key: jax.Array) -> Any:
        """Draws parameters, as the paper does."""
        side = self.config.image_size
        images = jnp.zeros((1, side, side, self.config.num_channels))
        return jax.jit(self.module.init)(key, images)["params"]

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        config: ConvNextConfig | None = None,
        dtype: Any = jnp.float32,
        revision: str | None = None,
        ignore_mismatched_sizes: bool = False,
        **changes: Any,
    ) -> Self:
        """Reads whatever `convnext.from_pretrained` reads. changes: fields of the config, such as
        num_labels or id2label. Another number of classes than the weights have makes a new head,
        drawn at random, and needs ignore_mismatched_sizes.

        Raises InputError for weights of the other version, with the class that they are of, and for
        models that transformers does not have, which `convnext.from_pretrained` gives.
        """
        if config is None:
            config = cls.config_class.from_dict(configs.read(source, revision), **changes)
        load = partial(pretrained.load, source, revision=revision)
        loaded = load(num_classes=None if cls.has_head else 0)
        count, found = config.num_labels, loaded.model.num_classes or 0
        if cls.has_head and count != found:
            accepted = f"{found}, as the weights have, or ignore_mismatched_sizes=True"
            require(count == 0 or ignore_mismatched_sizes, "num_labels", count, accepted)
            loaded = load(num_classes=count)
        return cls(config, dtype=dtype, params=loaded.params, processor=loaded.processor)

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        params: Any = None,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
    ) -> None:
        """Writes model.safetensors and config.json, which transformers loads unchanged, and
        preprocessor_config.json, if there is none. With push_to_hub uploads them, see there."""
        params = self.params if params is None else params
        folder, processor = Path(folder), self.processor
        if (folder / images.NAME).is_file():
            processor = ImageProcessor.from_pretrained(folder)
        elif processor is None:
            processor = ImageProcessor(size=self.config.image_size)
        labels = list(self.config.id2label.values()) if self.module.num_classes else None
        options = dict(labels=labels, processor=processor, problem_type=self.config.problem_type)
        save.save_pretrained(folder, self.module, params, **options)
        architectures = text.read_json(folder / configs.NAME)["architectures"]
        fields = {**self.config.to_dict(), "architectures": architectures}
        configs.write(folder, configs.NAME, fields)
        if push_to_hub:
            require(repo_id, "repo_id", repo_id, "USER/NAME, of the Hugging Face Hub")
            save.upload(folder, repo_id)

    def push_to_hub(self, repo_id: str, params: Any = None, *, private: bool = False) -> None:
        """Uploads what `save_pretrained` writes to USER/NAME of the Hugging Face Hub, which is made
        if need be, with the login of `hf auth login`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, params)
            save.upload(folder, repo_id, private=private)

    def _outputs(self, pixel_values, params, dropout_rng, train):
        """Logits and features."""
        if pixel_values is None:
            raise InputError("You have to specify pixel_values", "an array [N, C, H, W]")
        shape, channels = np.shape(pixel_values), self.config.num_channels
        if len(shape) != 4 or shape[1] != channels:
            raise InputError(
                "Make sure that the channel dimension of the pixel values match with the one set "
                f"in the configuration: they are {list(shape)}",
                f"[N, {channels}, H, W]",
            )
        draws = train and self.config.drop_path_rate > 0
        require(not draws or dropout_rng is not None, "dropout_rng", None,
                "a key of jax.random, for the drop path in training")  # fmt: skip
        return self.module.apply(
            {"params": self.params if params is None else params},
            jnp.moveaxis(jnp.asarray(pixel_values, jnp.float32), 1, -1),
            train,
            rngs={} if dropout_rng is None else {"dropout": dropout_rng},
            method="logits_and_features",
        )

    def _returned(self, output, features, output_hidden_states, return_dict, **values):
        asked, config = output_hidden_states, self.config
        if config.output_hidden_states if asked is None else asked:
            names = self.module.map_names
            values["hidden_states"] = tuple(_channels_first(features[name]) for name in names)
        made = output.of(**values)
        as_dict = config.return_dict if return_dict is None else return_dict
        return made if as_dict else made.to_tuple()


class ConvNextModel(_Pretrained):
    """ConvNeXt without a head: maps and pooled features."""

    def __call__(
        self,
        pixel_values: Any = None,
        *,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Computes BaseModelOutputWithPoolingAndNoAttention of images [N, C, H, W].

        params: other than the model's. dropout_rng: for the drop path, where train is True. What is
        None is as the config has it. return_dict False: a tuple.
        """
        _, features = self._outputs(pixel_values, params, dropout_rng, train)
        return self._returned(
            BaseModelOutputWithPoolingAndNoAttention,
            features,
            output_hidden_states,
            return_dict,
            last_hidden_state=_channels_first(features["last_hidden_state"]),
            pooler_output=features["pooler_output"],
        )


class ConvNextForImageClassification(_Pretrained):
    """ConvNeXt with a linear layer on the pooled features; num_labels 0 gives these."""

    has_head = True

    def __call__(
        self,
        pixel_values: Any = None,
        labels: Any = None,
        *,
        params: Any = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Computes ImageClassifierOutputWithNoAttention of images [N, C, H, W].

        labels: integers [N], or numbers [N, num_labels], give the loss: by the config's
        problem_type, or that of the labels, which is not written into the config. The others are
        as in ConvNextModel.
        """
        logits, features = self._outputs(pixel_values, params, dropout_rng, train)
        return self._returned(
            ImageClassifierOutputWithNoAttention,
            features,
            output_hidden_states,
            return_dict,
            loss=None if labels is None else self._loss(logits, jnp.asarray(labels)),
            logits=logits,
        )

    def _loss(self, logits, labels):
        count = logits.shape[-1]
        chosen = losses.problem_type(self.config.problem_type, count, labels.dtype)
        targets = losses.targets(labels, num_classes=count, problem_type=chosen)
        return losses.loss(logits, targets, problem_type=chosen).mean()


class ConvNextV2Model(ConvNextModel):
    """ConvNeXt V2 without a head: maps and pooled features."""

    config_class = ConvNextV2Config


class ConvNextV2ForImageClassification(ConvNextForImageClassification):
    """ConvNeXt V2 with a linear layer on the pooled features."""

    config_class = ConvNextV2Config


class AutoModelForImageClassification:
    """ConvNextForImageClassification or ConvNextV2ForImageClassification, as the weights are."""

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike, **options: Any
    ) -> ConvNextForImageClassification:
        """Reads whatever `convnext.from_pretrained` reads."""
        config = configs.read(source, options.get("revision"))
        is_v2 = config["model_type"] == ConvNextV2Config.model_type
        kind = ConvNextV2ForImageClassification if is_v2 else ConvNextForImageClassification
        return kind.from_pretrained(source, **options)


class AutoImageProcessor:
    """ConvNextImageProcessor."""

    from_pretrained = staticmethod(ConvNextImageProcessor.from_pretrained)


def pipeline(
    task: str | None = None,
    model: Any = None,
    image_processor: ConvNextImageProcessor | None = None,
) -> Callable[..., Any]:
    """Returns a function that names what is in images.

    `pipeline("image-classification", model=...)(image, top_k=5)` gives [{"label", "score"}, ...],
    and of a list of images a list of these. An image is what a Classifier takes, or an address of
    the web.

    model: whatever `convnext.from_pretrained` reads, or a ConvNextForImageClassification. Raises
    InputError for other tasks.
    """
    require(task in (None, TASK), "task", task, TASK)
    require(model is not None, "model", model, "weights, as convnext.from_pretrained takes them")
    if isinstance(model, ConvNextForImageClassification):
        labels = tuple(model.config.id2label.values())
        processor = model.processor or ImageProcessor(size=model.config.image_size)
        problem_type = model.config.problem_type
        classifier = Classifier(model.module, model.params, labels, processor, problem_type)
    else:
        classifier = Classifier.from_pretrained(model)
    if image_processor is not None:
        classifier.processor = image_processor.ours()

    def name(images: Any = None, *, inputs: Any = None, **options: Any) -> list:
        images = inputs if images is None else images
        is_list = isinstance(images, list | tuple)
        given = [
            addresses.fetch(image) if addresses.is_one(image) else image
            for image in (images if is_list else [images])
        ]
        named = classifier(given if is_list else given[0], **options)
        return named if is_list or getattr(images, "ndim", 0) == 4 else named[0]

    return name


def _channels_first(maps):
    return jnp.moveaxis(maps, -1, 1)

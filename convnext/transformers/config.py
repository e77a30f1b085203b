"""The configs of ConvNeXt and ConvNeXt V2."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from convnext.errors import InputError, require
from convnext.files import text
from convnext.models.convnext import VARIANTS
from convnext.weights import formats, locate, model_config, pretrained

NAME = "config.json"


class ConvNextConfig:
    """The fields of a config.json, by name; further keywords are kept.

    num_labels, id2label ({0: "cat", ...}) and label2id follow from each other: num_labels alone
    makes "LABEL_0", ... (2 by default). Raises InputError for sizes that do not agree.
    """

    model_type: ClassVar[str] = "convnext"

    def __init__(
        self,
        num_channels: int = 3,
        patch_size: int = 4,
        num_stages: int = 4,
        hidden_sizes: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        hidden_act: str = "gelu",
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        layer_scale_init_value: float = 1e-6,
        drop_path_rate: float = 0.0,
        image_size: int = 224,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        *,
        num_labels: int | None = None,
        id2label: Mapping[Any, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        problem_type: str | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **others: Any,
    ):
        tiny = VARIANTS["tiny"]
        self.num_channels, self.patch_size = num_channels, patch_size
        self.num_stages = num_stages
        self.hidden_sizes = list(tiny["dims"] if hidden_sizes is None else hidden_sizes)
        self.depths = list(tiny["depths"] if depths is None else depths)
        self.hidden_act, self.initializer_range = hidden_act, initializer_range
        self.layer_norm_eps, self.drop_path_rate = layer_norm_eps, drop_path_rate
        if self.model_type == "convnext":
            self.layer_scale_init_value = layer_scale_init_value
        self.image_size, self.problem_type = image_size, problem_type
        self.output_hidden_states, self.return_dict = output_hidden_states, return_dict
        self.stage_names = ["stem", *(f"stage{i + 1}" for i in range(len(self.depths)))]
        self.out_features, self.out_indices = self._outputs(out_features, out_indices)
        others.pop("model_type", None)
        vars(self).update(others)
        if id2label is not None:
            self.id2label = {int(number): str(name) for number, name in id2label.items()}
            self.label2id = dict(label2id or {name: n for n, name in self.id2label.items()})
            agrees = num_labels in (None, len(self.id2label))
            require(agrees, "num_labels", num_labels, f"{len(self.id2label)}, as id2label has")
        else:
            self.num_labels = 2 if num_labels is None else num_labels
        model_config.read(self.to_dict())

    def _outputs(self, features, indices):
        """out_features and out_indices, of which one says the other."""
        if features is None and indices is not None:
            features = [self.stage_names[index] for index in indices]
        features = self.stage_names[-1:] if features is None else list(features)
        known = set(features) <= set(self.stage_names)
        require(known, "out_features", features, f"some of {', '.join(self.stage_names)}")
        return features, [self.stage_names.index(name) for name in features]

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        """Names them anew where there are others."""
        is_count = type(count) is int and count >= 0
        require(is_count, "num_labels", count, "an integer from 0 up")
        if count != len(getattr(self, "id2label", ())) or not count:
            self.id2label = {number: f"LABEL_{number}" for number in range(count)}
            self.label2id = {name: number for number, name in self.id2label.items()}

    @property
    def num_hidden_layers(self) -> int:
        """num_stages, by its other name."""
        return self.num_stages

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], **changes: Any) -> Self:
        """Makes a config of the content of a config.json. Raises InputError for one of another
        model type."""
        given, known = config.get("model_type", cls.model_type), CLASSES.get
        accepted = cls.model_type if known(given) is None else f"{known(given).__name__} for it"
        require(given == cls.model_type, f"the model_type of a {cls.__name__}", given, accepted)
        if {"num_labels", "id2label"} & changes.keys():  # the others follow from it
            config = {name: v for name, v in config.items() if name not in ("id2label", "label2id")}
        return cls(**{**config, **changes})

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, *, revision: str | None = None, **changes: Any
    ) -> Self:
        """Reads the config of whatever `convnext.from_pretrained` reads; changes are fields."""
        return cls.from_dict(read(source, revision), **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, as config.json has them."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        fields["id2label"] = {str(number): name for number, name in self.id2label.items()}
        return {"model_type": self.model_type, **fields}

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes config.json."""
        write(folder, NAME, self.to_dict())

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2)}"


class ConvNextV2Config(ConvNextConfig):
    """The same for ConvNeXt V2, which has no layer_scale_init_value."""

    model_type = "convnextv2"


CLASSES = {each.model_type: each for each in (ConvNextConfig, ConvNextV2Config)}


def read(source: str | os.PathLike, revision: str | None = None) -> dict[str, Any]:
    """Reads the config.json of a source, or makes that of other weights: timm's, of a run. Raises
    InputError where transformers has no such model."""
    file = locate.beside(source, NAME, revision)
    if file is not None:
        fields = text.read_json(file)
        if "model_type" in fields:
            return fields
    loaded = pretrained.load(source, revision=revision)
    if reason := formats.unsupported(loaded.model, "transformers"):
        accepted = "those that convnext.from_pretrained gives"
        raise InputError(f"transformers has no models with {reason}", accepted)
    made = model_config.transformers_config(
        loaded.model, loaded.labels, loaded.processor.size, loaded.problem_type
    )
    return made if loaded.model.num_classes else {**made, "num_labels": 0}


def write(folder: str | os.PathLike, name: str, values: Mapping[str, Any]) -> None:
    """Writes a JSON file into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text.replace(folder / name, text.of_json(values))

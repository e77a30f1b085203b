"""The published weights that from_pretrained reads: their ids, and what one chooses them by.

published.csv has timm's ids with a head or of a masked autoencoder (timm 1.0.31), and of
transformers those that timm lacks. top1 is on ImageNet-1k at `pixels`, in percent, from timm's
results files (for transformers' two from the README of facebookresearch/ConvNeXt). `official` is
the address of the same weights below OFFICIAL. The default is what timm takes for a name without a
tag.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

OFFICIAL = "https://dl.fbaipublicfiles.com/convnext/"
NOT_COMMERCIAL = "-nc-"  # in the names of such licences


@dataclass(frozen=True)
class Published:
    """A line of published.csv."""

    id: str  # of a Hugging Face repository
    variant: str  # of VARIANTS
    pixels: int
    classes: int  # 0: without a head
    parameters: int
    top1: float | None
    licence: str
    official: str | None  # the address of the same weights
    is_default: bool

    @property
    def name(self) -> str:
        """timm's name: convnext_tiny.fb_in1k."""
        return self.id.rpartition("/")[2]


@cache
def weights() -> tuple[Published, ...]:
    """All of them, by variants, in the order of VARIANTS."""
    text = resources.files(__package__).joinpath("published.csv").read_text()
    return tuple(
        Published(
            id=row["id"],
            variant=row["variant"],
            pixels=int(row["pixels"]),
            classes=int(row["classes"]),
            parameters=int(row["parameters"]),
            top1=float(row["top1"]) if row["top1"] else None,
            licence=row["licence"],
            official=OFFICIAL + row["official"] if row["official"] else None,
            is_default=row["is_default"] == "yes",
        )
        for row in csv.DictReader(text.splitlines())
    )


def find(source: str) -> Published | None:
    """Finds weights by their id, their name with or without a tag, or the official address."""
    for each in weights():
        untagged = each.name.partition(".")[0] if each.is_default else None
        if source in (each.id, each.name, each.official, untagged):
            return each
    return None


def terms(licence: str | None) -> str:
    """A licence as one is told of it before one builds on it."""
    if licence is None:
        return "licence not stated"
    is_free = NOT_COMMERCIAL not in licence and "noncommercial" not in licence
    return f"licence {licence}{'' if is_free else ': not for commercial use'}"

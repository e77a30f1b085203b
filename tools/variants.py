"""Prints every variant with its size and its published figures, or the published weights.

    python -m tools.variants [--weights]

GMACs are computed: those of convolutions and linear layers in one image's forward pass. Published
figures are from the README files of facebookresearch/ConvNeXt and ConvNeXt-V2 (base at 384: from
the paper; the README's 47.0 is wrong). For models that only timm has, they are from its results
files.
"""

from rich.console import Console
from rich.table import Table

from convnext import VARIANTS, ConvNeXt, commands
from convnext.models.convnext import abstract_params, macs
from convnext.runs.plan import parameter_count
from convnext.weights import published

# GMACs at 224 and 384 pixels; top-1 on ImageNet-1k in percent, as "pixels: top-1" after the data
# set of the pre-training, if there was one.
PUBLISHED = {
    "atto": (0.55, None, "224: 75.67, 288: 77.02"),
    "femto": (0.79, None, "224: 77.50, 288: 78.71"),
    "pico": (1.37, None, "224: 79.52, 288: 80.43"),
    "nano": (2.46, 7.22, "224: 80.76, 288: 81.47; 12k 288: 82.88, 384: 83.33"),
    "tiny": (4.5, 13.1, "224: 82.1; 22k 224: 82.9, 384: 84.1"),
    "tiny_hnf": (None, None, "224: 82.23, 288: 82.61"),
    "small": (8.7, 25.5, "224: 83.1; 22k 224: 84.6, 384: 85.8"),
    "base": (15.4, 45.1, "224: 83.8, 384: 85.1; 22k 224: 85.8, 384: 86.8"),
    "large": (34.4, 101.0, "224: 84.3, 384: 85.5; 22k 224: 86.6, 384: 87.5"),
    "large_mlp": (None, None, "CLIP, 12k 384: 88.33"),
    "xlarge": (60.9, 179.0, "22k 224: 87.0, 384: 87.8"),
    "xxlarge": (None, None, "CLIP 256: 88.62"),
    "isotropic_small": (4.3, None, "224: 78.7 (paper 79.7)"),
    "isotropic_base": (16.9, None, "224: 82.0"),
    "isotropic_large": (59.7, None, "224: 82.6"),
    "v2_atto": (0.55, None, "224: 76.7"),
    "v2_femto": (0.78, None, "224: 78.5"),
    "v2_pico": (1.37, None, "224: 80.3"),
    "v2_nano": (2.45, 7.21, "224: 81.9; 22k 224: 82.1, 384: 83.4"),
    "v2_tiny": (4.47, 13.1, "224: 83.0; 22k 224: 83.9, 384: 85.1"),
    "v2_base": (15.4, 45.2, "224: 84.9; 22k 224: 86.8, 384: 87.7"),
    "v2_large": (34.4, 101.1, "224: 85.8; 22k 224: 87.3, 384: 88.2"),
    "v2_huge": (115.0, 337.9, "224: 86.3; 22k 384: 88.7, 512: 88.9"),
}


COLUMNS = {
    "variant": "left", "depths": "left", "dims": "left", "parameters": "right",
    "GMACs 224": "right", "GMACs 384": "right", "published 224": "right",
    "published 384": "right", "published top-1": "left",
}  # fmt: skip


def rows() -> list[tuple[str, ...]]:
    """Returns name, depths, dims, parameters with 1,000 classes, computed GMACs at 224 and at 384,
    published GMACs at 224 and at 384, and published top-1 of every variant."""
    table = []
    for name, fields in VARIANTS.items():
        model = ConvNeXt(**fields)
        published_224, published_384, top1 = PUBLISHED[name]
        table.append(
            (
                name,
                ",".join(map(str, model.depths)),
                ",".join(map(str, model.dims)),
                f"{parameter_count(abstract_params(model)):,}",
                f"{macs(model, 224) / 1e9:.3f}",
                f"{macs(model, 384) / 1e9:.3f}",
                "" if published_224 is None else f"{published_224:g}",
                "" if published_384 is None else f"{published_384:g}",
                top1,
            )
        )
    return table


WEIGHTS = {"weights": "left", "default": "left", "classes": "right", "parameters": "right",
           "pixels": "right", "top-1": "right", "licence": "left"}  # fmt: skip


def weights() -> list[tuple[str, ...]]:
    """Returns id, name without a tag where that means these, classes, parameters, pixels, top-1 on
    ImageNet-1k at these, and licence, of all published weights."""
    return [
        (
            each.id,
            each.name.partition(".")[0] if each.is_default else "",
            f"{each.classes:,}" if each.classes else "features",
            f"{each.parameters:,}",
            f"{each.pixels}",
            "" if each.top1 is None else f"{each.top1:.1f}",
            each.licence,
        )
        for each in published.weights()
    ]


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("variants", __doc__)
    parser.add_argument(
        "--weights", action="store_true", help="published ones, for --model and --config.init_from"
    )
    is_of_weights = parser.parse_args(argv).weights
    table = Table(box=None, pad_edge=False)
    for header, justify in (WEIGHTS if is_of_weights else COLUMNS).items():
        table.add_column(header, justify=justify, no_wrap=True)
    for row in weights() if is_of_weights else rows():
        table.add_row(*row)
    Console(width=190).print(table)


if __name__ == "__main__":
    main()

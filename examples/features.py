"""Features of images from any weights: the maps of each stage, and which images are alike.

    python -m examples.features cat.jpg --folder=photos --model=facebook/convnextv2-atto-1k-224

The maps are for tasks that need positions, such as detection and segmentation. The pooled features
are one vector an image, for search, clusters and classifiers on few labels.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from convnext.data.listing import IMAGE_SUFFIXES
from convnext.errors import InputError, reported
from convnext.weights import pretrained

BATCH_SIZE = 32


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.features")
    parser.add_argument("image", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="of images, in any depth")
    parser.add_argument("--model", default="facebook/convnextv2-atto-1k-224", metavar="SOURCE")
    parser.add_argument("--neighbours", type=int, default=5)
    args = parser.parse_args(argv)
    with reported():
        show(args.image, args.folder, args.model, args.neighbours)


def show(image: Path, folder: Path, source: str, neighbours: int) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    others = [path for path in paths if path.resolve() != image.resolve()]
    if not others:
        raise InputError(f"no other image in {folder}", ", ".join(IMAGE_SUFFIXES))
    backbone = pretrained.load(source, num_classes=0)  # without a head
    processor = backbone.processor

    @jax.jit
    def features(pixels):
        return backbone.model.apply({"params": backbone.params}, pixels, method="features")

    query = features(processor.preprocess(image))
    print(f"{image}, {processor.size} x {processor.size} pixels")
    for name in (*backbone.model.map_names, "pooler_output"):
        print(f"  {name:13} {' x '.join(map(str, query[name].shape[1:]))}")

    pooled = []
    for start in range(0, len(others), BATCH_SIZE):
        pixels = processor.preprocess(others[start : start + BATCH_SIZE])
        pooled.append(np.asarray(features(pixels)["pooler_output"]))
    pooled = np.concatenate(pooled)
    mean = pooled.mean(axis=0)  # what all images have in common does not tell them apart
    similarities = unit(pooled - mean) @ unit(query["pooler_output"] - mean)[0]
    measure = "by the cosine of their pooled features less the mean"
    print(f"\nnearest of {len(others)} images, {measure}")
    for index in np.argsort(-similarities)[:neighbours]:
        print(f"  {similarities[index]:.4f} {others[index]}")


def unit(vectors):
    """Divides each vector, [N, C], by its length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


if __name__ == "__main__":
    main()

"""Features of images, from any weights: the maps of each stage, and which images are alike.

    python -m examples.features cat.jpg --folder=photos --model=facebook/convnextv2-atto-1k-224

The maps are for what needs to know where (detection, segmentation); the pooled features are one
vector an image, for search, clusters and classifiers on few labels.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from convnext.data.folders import IMAGE_SUFFIXES
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
        raise InputError(f"no other image in {folder}", f"{', '.join(IMAGE_SUFFIXES)}")
    found = pretrained.load(source, num_classes=0)  # without a head

    @jax.jit
    def features(pixels):
        return found.model.apply({"params": found.params}, pixels, method="features")

    of_image = features(found.processor.preprocess(image))
    print(f"{image}, {found.processor.size} x {found.processor.size} pixels")
    for name in (*found.model.map_names, "pooler_output"):
        print(f"  {name:13} {' x '.join(map(str, of_image[name].shape[1:]))}")

    pooled = []
    for start in range(0, len(others), BATCH_SIZE):
        pixels = found.processor.preprocess(others[start : start + BATCH_SIZE])
        pooled.append(np.asarray(features(pixels)["pooler_output"]))
    pooled = np.concatenate(pooled)
    mean = pooled.mean(axis=0)  # what all have in common says nothing
    similarities = unit(pooled - mean) @ unit(of_image["pooler_output"] - mean)[0]
    print(
        f"\nnearest of {len(others)} images, by the cosine of their pooled features less the mean"
    )
    for index in np.argsort(-similarities)[:neighbours]:
        print(f"  {similarities[index]:.4f} {others[index]}")


def unit(vectors):
    """Each vector [N, C] divided by its length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


if __name__ == "__main__":
    main()

"""Exports small models to LiteRT and runs them there: `make litert`.

    .venv-litert/bin/python -m dev.litert_check

Ends with status 1 where the logits differ by more than 1e-5 of the largest.
"""

import sys

from convnext.export import litert
from convnext.models.convnext import VARIANTS, ConvNeXt
from dev.random_params import random_params

TOLERANCE = 1e-5


def main() -> None:
    worst = 0.0
    for name in ("atto", "v2_atto"):
        model = ConvNeXt(**VARIANTS[name], num_classes=5)
        params = random_params(model)
        for batch_size, image_size in ((1, 64), (3, 71)):
            sizes = dict(batch_size=batch_size, image_size=image_size)
            contents = litert.flatbuffer(model, params, **sizes)
            apart = litert.difference(contents, model, params, **sizes)
            print(f"{name} {batch_size}x{image_size}: {len(contents):,} bytes, {apart:.1e}")
            worst = max(worst, apart)
    sys.exit(f"error: {worst:.1e} is above {TOLERANCE:.0e}" if worst > TOLERANCE else 0)


if __name__ == "__main__":
    main()

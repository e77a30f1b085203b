"""The commands as one types them: `python train.py` in a clone, `convnext train` of a wheel.

Texts name them as in a clone. A wheel has the same files in a folder of the package, and says them
its own way.
"""

import argparse
import re
from pathlib import Path

_INSIDE = Path(__file__).parent / "scripts"
IS_WHEEL = _INSIDE.is_dir()
SCRIPTS = _INSIDE if IS_WHEEL else _INSIDE.parents[1]  # has train.py, eval.py, configs/ and tools/
TOOLS = (
    "data", "linear", "predict", "report", "push", "convert", "export", "variants", "prepare",
    "demo", "reconstruct",
)  # fmt: skip

_NAMED_ELSEWHERE = {  # as in a clone, and what it is in a wheel
    rf"(?:--config=)?(?:{re.escape(str(SCRIPTS))}/|(?<![\w/]))configs/(\w+)\.py": r"--config=\1",
    rf"(?:python -m )?(?<![\w/.])tools\.({'|'.join(TOOLS)})\b": r"convnext \1",
    r"(?:python )?(?<![\w/.])(train|eval)\.py\b": r"convnext \1",
}


def typed(text: str) -> str:
    """Returns a text whose commands and recipes are named as one types them here."""
    if not IS_WHEEL:
        return text
    for pattern, named in _NAMED_ELSEWHERE.items():
        text = re.sub(pattern, named, text)
    return text


def parser(tool: str, description: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m tools.<tool>`, to which its arguments are added."""
    return argparse.ArgumentParser(
        prog=typed(f"python -m tools.{tool}"),
        description=typed(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

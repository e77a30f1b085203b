"""Page with pictures of each class of a data set, rendered from sheet.html.jinja."""

from pathlib import Path

import numpy as np
from markupsafe import Markup

from convnext.data import contents, survey
from convnext.data.folders import Files
from convnext.errors import InputError
from convnext.files import text
from tools.reporting import page

SIDE = 112  # pixels of a picture
EACH = 24  # pictures of each class and part, spread over its images
CLASSES = 200  # of which there are pictures
PAIRS = 40  # of nearly the same picture that are shown


def write(path: Path, name: str, train: Files, val: Files, found: contents.Contents) -> None:
    """Writes the page. Raises InputError where the file cannot be written."""
    paths = [*train.paths(), *val.paths()]
    sources = [(train, i) for i in range(len(train))] + [(val, i) for i in range(len(val))]
    pairs = sorted(found.pairs, key=lambda pair: -pair.similarity)[:PAIRS]
    template = page.environment_of_pages().get_template("sheet.html.jinja")
    rendered = template.render(
        css=Markup((page.FOLDER / "report.css").read_text()),
        name=name,
        lines=[*survey.lines(train, val), *contents.lines(found, train.paths(), val.paths())],
        counts=(len(train), len(val)),
        classes=[_of_class(label, train, val) for label in range(_shown(train))],
        more=len(train.class_names) - _shown(train),
        pairs=[
            {
                "pictures": [_picture(*sources[i]) for i in (pair.first, pair.second)],
                "names": [str(paths[i]) for i in (pair.first, pair.second)],
                "similarity": pair.similarity,
                "mirrored": pair.mirrored,
                "across": pair.first < len(train) <= pair.second,
            }
            for pair in pairs
        ],
        more_pairs=len(found.pairs) - len(pairs),
    )
    try:
        text.replace(path, rendered)
    except OSError as error:
        raise InputError(f"--page is {path}: {error.strerror}", "a file to write") from error


def _shown(train):
    return min(len(train.class_names), CLASSES) if train.labels.ndim == 1 else 0


def _of_class(label, train, val):
    """The name of a class, and pictures of its training and validation images."""
    parts = []
    for title, source in (("training", train), ("validation", val)):
        members = np.flatnonzero(source.labels == label)
        spread = members[np.linspace(0, len(members) - 1, min(len(members), EACH)).astype(int)]
        pictures = [
            {"picture": _picture(source, index), "name": source.path(index).name}
            for index in spread.tolist()
        ]
        parts.append({"title": title, "count": len(members), "pictures": pictures})
    return {"name": train.class_names[label], "parts": parts}


def _picture(source, index):
    """An image as a data URI, or None where it cannot be read."""
    try:
        return page.picture(source[index]["image"], SIDE)
    except InputError:
        return None

"""What lies in a folder of images: what a run trains on, and what may be wrong with it."""

from collections.abc import Sequence

import numpy as np

from convnext.data import duplicates
from convnext.data.folders import MOST_COMPARED, Files
from convnext.data.listing import what_is_skipped

LISTED = 12  # classes up to which each is listed with its counts
NAMED = 5  # of more, the classes that a line names
UNBALANCED = 10  # times as many images of the largest class as of the smallest


def lines(train: Files, val: Files) -> list[str]:
    """Describes the training and validation images by what their names say: the counts of the
    classes, what was skipped, and what one should know. Each line begins with its subject."""
    found = [*_classes(train, val)] if train.labels.ndim == 1 else [*_numbers(train)]
    return found + of_files(train, val)


def of_files(train: Files, val: Files) -> list[str]:
    """Describes what was skipped, and what one should know of images whose labels nobody asks
    for."""
    found = []
    skipped = {name: train.skipped.get(name, 0) + val.skipped.get(name, 0)
               for name in {**train.skipped, **val.skipped}}  # fmt: skip
    if skipped:
        found.append(f"skipped    {what_is_skipped(skipped)}")
    found += [f"split      {note}" for note in (*train.notes, *val.notes)]
    if len(train) + len(val) <= MOST_COMPARED:
        found += _equal(train.paths(), val.paths())
    return found


def _equal(train, val):
    """Lines about files with the same content."""
    paths = [*train, *val]
    groups, _ = duplicates.exact(paths)
    both = [group for group in groups if group[0] < len(train) <= group[-1]]
    if both:
        first, last = paths[both[0][0]], paths[both[0][-1]]
        count = sum(index >= len(train) for group in both for index in group)
        yield (
            f"equal      {count:,} validation images have the content of a training image, such as "
            f"{last} and {first}"
        )
    more = sum(len(group) - 1 for group in groups) - sum(len(group) - 1 for group in both)
    if more:
        yield f"equal      {more:,} further images have the content of another"


def _classes(train, val):
    names = train.class_names
    counts = np.bincount(train.labels, minlength=len(names))
    asked = np.bincount(val.labels, minlength=len(names))
    if len(names) <= LISTED:
        each = (f"{name} {n:,} + {m:,}" for name, n, m in zip(names, counts, asked, strict=True))
        yield f"classes    {', '.join(each)}"
    else:
        yield (
            f"classes    {len(names):,}, of {counts.min():,} to {counts.max():,} training images, "
            f"{np.median(counts):,.0f} in the median"
        )
    if len(names) == 1:
        yield "classes    one alone: there is nothing to tell apart"
    least, most = counts.argmin(), counts.argmax()
    if counts[most] >= UNBALANCED * max(counts[least], 1):
        yield (
            f"unbalanced {counts[most]:,} training images of {names[most]}, {counts[least]:,} of "
            f"{names[least]}: --config.class_weights=balanced weighs the classes alike"
        )
    missing = [name for name, m in zip(names, asked, strict=True) if m == 0]
    if missing:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        yield f"not asked  no validation images of {', '.join(missing[:NAMED])}{more}"


def _numbers(train):
    """Of labels [N, K]: how often each of several classes occurs, or the span of each number."""
    names: Sequence[str] = train.class_names
    if train.problem_type == "regression":
        for name, values in zip(names, train.labels.T, strict=True):
            yield f"numbers    {name} from {values.min():.6g} to {values.max():.6g}"
        return
    counts = train.labels.sum(axis=0).astype(int)
    each = (f"{name} {n:,}" for name, n in zip(names[:LISTED], counts, strict=False))
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    yield f"labels     {', '.join(each)}{more}; none {int((train.labels.sum(axis=1) == 0).sum()):,}"

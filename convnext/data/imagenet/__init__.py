"""Class names of ImageNet-1k, -12k and -22k, in the order of the published heads, and labels of the
test sets.

imagenet.tsv has a line for each WordNet synset: its id, the sets it is in, its words. It is made
from the lists that timm 1.0.31 ships (timm/data/_info). Each set is ordered by id. 1k is that of
ILSVRC 2012, 22k the 21,841 classes of the fall 2011 release, 12k timm's 11,821 of these. a and r
are the 200 classes of 1k that ImageNet-A (https://arxiv.org/abs/1907.07174) and ImageNet-R
(https://arxiv.org/abs/2006.16241) have.

real.txt has a line for each image of ILSVRC 2012's validation set, by number: the classes of 1k
that are right for it, none for 3,163 of them ("Are we done with ImageNet?",
https://arxiv.org/abs/2006.07159; google-research/reassessed-imagenet, Apache-2.0, by way of timm).
"""

from functools import cache
from pathlib import Path

SETS = {1000: "1k", 11821: "12k", 21841: "22k"}
TEDDY, DOLL = "n04399382", "n03219135"


@cache
def _synsets(name):
    """Reads {id: words} of a set."""
    table = Path(__file__).with_name("imagenet.tsv").read_text(encoding="utf-8")
    lines = (line.split("\t") for line in table.splitlines())
    return {synset: words for synset, sets, words in lines if name in sets.split(",")}


def names(num_classes: int | None) -> tuple[str, ...] | None:
    """Returns the class names of the set with this number of classes, or None."""
    return tuple(_synsets(SETS[num_classes]).values()) if num_classes in SETS else None


def synsets(name: str) -> tuple[str, ...]:
    """Returns the ids of the set "1k", "12k", "22k", "a" or "r", in order."""
    return tuple(_synsets(name))


def classes_of(name: str) -> list[int]:
    """Returns the indices in 1k of the classes of "a" or "r", which are parts of it."""
    index = {synset: i for i, synset in enumerate(_synsets("1k"))}
    return [index[synset] for synset in _synsets(name)]


@cache
def real() -> tuple[tuple[int, ...], ...]:
    """Reads the right classes of each image of ImageNet-1k's validation set, from number 1 on."""
    lines = Path(__file__).with_name("real.txt").read_text().splitlines()
    return tuple(tuple(map(int, line.split())) for line in lines)


def rows_of_1k_in_22k() -> list[int]:
    """Returns the index in ImageNet-22k of each class of ImageNet-1k.

    The teddy is not in fall 2011. It gets the index of the doll, its sister in WordNet.
    """
    index = {synset: i for i, synset in enumerate(_synsets("22k"))}
    return [index[DOLL if synset == TEDDY else synset] for synset in _synsets("1k")]

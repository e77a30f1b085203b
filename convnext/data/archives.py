"""Data sets in the archives that their authors publish."""

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from convnext.data import folders, listing
from convnext.errors import InputError, require

IMAGENET_TRAIN = "ILSVRC2012_img_train.tar"
IMAGENET_VAL = "ILSVRC2012_img_val.tar"
IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MAX_BYTES = 2**28  # of a file in an archive, which is read whole; ImageNet's largest has 2**24
MAX_HEADER = 2**20  # bytes of a header in a tar archive, such as a long name


class Header(tarfile.TarInfo):
    """Header with a limit, for tarfile.open(..., tarinfo=Header). tarfile itself reads a header of
    any size."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """Reads a header. Raises InputError if it is large, or continues in further blocks."""
        header = super().frombuf(buf, encoding, errors)
        size = header.size if header.type in _WITH_TEXT else 0
        require(size <= MAX_HEADER, "the size of a header", size, f"at most {MAX_HEADER} bytes")
        is_extended = header.type == tarfile.GNUTYPE_SPARSE and buf[482]
        require(not is_extended, "a member", "a sparse file of many parts", "whole files")
        return header


_WITH_TEXT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def read(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    """Reads the bytes of a member. Raises InputError if they are damaged or exceed MAX_BYTES."""
    accepted = f"at most {MAX_BYTES} bytes"
    require(member.size <= MAX_BYTES, f"the size of {name}", member.size, accepted)
    try:
        return archive.extractfile(member).read()
    except Exception as error:
        raise _refusal(name, error) from error


def _refusal(name, error):
    # Damaged archives raise errors of every kind, from tarfile and the libraries under it.
    reason = str(error).partition("\n")[0]
    return InputError(f"cannot read {name}: {reason}", "a whole tar archive")


class Entry(NamedTuple):
    """An image file in an archive."""

    split: str  # "train" or "val"
    class_name: str
    name: str  # of the file, with the archives that it is in
    read: Callable[[], bytes]  # call it before asking for the next entry
    done: float  # the share of the archive that lies before it, 0 to 1


def tar_entries(path: Path) -> Iterator[Entry]:
    """Yields the image files of a tar archive, in its order.

    The class of an image is the folder below "train", or below "val" or another of folders.VAL,
    whose images are validation images; without such a folder its own, or its inner archive:
    ImageNet's has one for each class.

    The labels of ImageNet's ILSVRC2012_img_val.tar are read from ILSVRC2012_devkit_t12.tar.gz
    beside it. Raises InputError if the archive is not whole or the class of an image is unknown.
    Reading an entry may raise it, too (see `read`).
    """
    labels = _imagenet_val_labels(path) if path.name == IMAGENET_VAL else None
    size = path.stat().st_size
    try:
        with tarfile.open(path, tarinfo=Header) as archive:
            for member, name in _files(archive, path.name):
                done = member.offset_data / size
                if name.endswith(".tar"):
                    file = archive.extractfile(member)
                    with tarfile.open(fileobj=file, tarinfo=Header) as inner:
                        class_name = PurePosixPath(name).stem
                        for image, inner_name in _files(inner, name):
                            data = partial(read, inner, image, inner_name)
                            yield Entry("train", class_name, inner_name, data, done)
                else:
                    split, class_name = _class(member.name, name, labels)
                    data = partial(read, archive, member, name)
                    yield Entry(split, class_name, name, data, done)
    except InputError:
        raise
    except Exception as error:
        raise _refusal(path, error) from error


def _files(archive, prefix):
    """Yields the images and archives in an archive, with their names for messages."""
    for member in archive:
        file = PurePosixPath(member.name).name
        known = file.lower().endswith((*listing.IMAGE_SUFFIXES, ".tar"))
        # A sparse file may claim any size, whatever the archive holds of it.
        is_whole = member.isreg() and not member.issparse()
        if is_whole and known and not file.startswith("."):
            yield member, f"{prefix}/{member.name}"


def _class(path, name, labels):
    """Returns the split and the class of an image."""
    *above, file = PurePosixPath(path).parts
    if labels is not None:
        require(file in labels, "a file", name, "those of the 50,000 that have labels")
        return "val", labels[file]
    if not above:
        raise InputError(
            f"{name} is in no folder",
            "<class>/*.jpg, train/<class>/*.jpg and val/<class>/*.jpg, or a <class>.tar for each "
            "class",
        )
    splits = ("train", *folders.VAL)
    at = next((at for at, folder in enumerate(above[:-1]) if folder in splits), None)
    if at is None:
        return "train", above[-1]
    return "train" if above[at] == "train" else "val", above[at + 1]


def _imagenet_val_labels(path):
    """Reads {file: synset} of the 50,000 validation images from the development kit beside them."""
    devkit = path.with_name(IMAGENET_DEVKIT)
    if not devkit.is_file():
        raise InputError(f"{path} has no labels", f"with {IMAGENET_DEVKIT} beside it")
    try:
        with tarfile.open(devkit, tarinfo=Header) as archive:
            members = {PurePosixPath(member.name).name: member for member in archive}
            names = ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
            meta, numbers = (read(archive, members[name], name) for name in names)
        meta = _loadmat(io.BytesIO(meta), squeeze_me=True)
        synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in meta["synsets"]}
        return {
            f"ILSVRC2012_val_{i:08d}.JPEG": synsets[int(number)]
            for i, number in enumerate(numbers.split(), 1)
        }
    except Exception as error:  # of tarfile, of scipy, or because an entry is missing
        raise InputError(f"cannot read {devkit}: {error}", "as published") from error


def flowers(root: str) -> tuple[folders.Files, folders.Files]:
    """Reads Oxford's 102 flowers: root holds jpg/, of 102flowers.tgz, imagelabels.mat and
    setid.mat, of https://www.robots.ox.ac.uk/~vgg/data/flowers/102. The published training and
    validation splits of 1,020 images each are both used for training, as is usual. The 6,149 test
    images are the validation images."""
    pictures = Path(root) / "jpg"
    if not pictures.is_dir():
        raise InputError(f"no folder {pictures}", f"102flowers.tgz unpacked in {root}")
    labels = _matrix(root, "imagelabels.mat", "labels").astype(np.int32) - 1
    lowest = f"the lowest label in {root}/imagelabels.mat"
    require(labels.min(initial=0) == 0, lowest, int(labels.min() + 1), "1 and more")
    splits = {name: _matrix(root, "setid.mat", name) for name in ("trnid", "valid", "tstid")}
    class_names = [str(number) for number in range(1, labels.max() + 2)]

    def files(numbers):
        names = np.array([b"image_%05d.jpg" % number for number in numbers])
        return folders.Files(pictures, class_names, names, labels[numbers - 1], folder=".")

    return files(np.sort(np.append(splits["trnid"], splits["valid"]))), files(splits["tstid"])


def _loadmat(file, **options):
    import scipy.io  # it takes a third of a second, in each worker

    return scipy.io.loadmat(file, **options)


def _matrix(root, name, key):
    path = Path(root) / name
    try:
        return _loadmat(path)[key].ravel()
    except Exception as error:  # scipy's, of damaged files, are of every kind
        raise InputError(f"cannot read {path}: {error}", f"{name} as published") from error

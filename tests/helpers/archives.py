"""Archives and folders of images, as their authors publish them."""

import io
import tarfile

import numpy as np
import scipy.io
from PIL import Image

from convnext.data import archives


def jpeg(value=0):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, value, value)).save(file, "JPEG")
    return file.getvalue()


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def tar(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            add(archive, name, data)
    return file.getvalue()


def imagenet(folder):
    """The three archives of ILSVRC 2012 in their layout: three classes, the fourth of the tree."""
    train = {
        f"{synset}.tar": tar({f"{synset}_{i}.JPEG": jpeg(40 * k + i) for i in range(2)})
        for k, synset in enumerate(["n03", "n01", "n02"])
    }
    (folder / archives.IMAGENET_TRAIN).write_bytes(tar(train))
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(200 + i) for i in (1, 2, 3)}
    (folder / archives.IMAGENET_VAL).write_bytes(tar(val))
    synsets = np.array(
        [(1, "n02", 0), (2, "n03", 0), (3, "n01", 0), (1001, "n09", 3)],
        dtype=[("ILSVRC2012_ID", "f8"), ("WNID", object), ("num_children", "f8")],
    )
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets[:, None]})
    kit = tar(
        {
            "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n3\n",
        }
    )
    (folder / archives.IMAGENET_DEVKIT).write_bytes(kit)


def write_flowers(folder, labels, levels, **splits):
    """Oxford's flowers as published: numbers of images and labels count from 1."""
    (folder / "jpg").mkdir()
    for number, level in enumerate(levels, 1):
        (folder / "jpg" / f"image_{number:05d}.jpg").write_bytes(jpeg(level))
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})
    scipy.io.savemat(folder / "setid.mat", {k: np.array([v]) for k, v in splits.items()})

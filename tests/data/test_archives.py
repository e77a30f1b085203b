import tarfile

import pytest

from convnext.data import archives, sources
from tests.helpers.archives import add, imagenet, jpeg, tar, write_flowers
from tests.helpers.inputs import refused


def entries(path):
    return [(entry.split, entry.class_name, entry.read()) for entry in archives.tar_entries(path)]


def test_imagenets_training_archive_has_an_archive_for_each_class(tmp_path):
    imagenet(tmp_path)
    found = entries(tmp_path / archives.IMAGENET_TRAIN)
    assert [entry[:2] for entry in found[::2]] == [
        ("train", name) for name in ("n03", "n01", "n02")
    ]
    assert found[3] == ("train", "n01", jpeg(41)) and len(found) == 6
    entry = next(archives.tar_entries(tmp_path / archives.IMAGENET_TRAIN))
    assert entry.name == "ILSVRC2012_img_train.tar/n03.tar/n03_0.JPEG"


def test_imagenets_validation_images_have_the_labels_of_the_development_kit(tmp_path):
    imagenet(tmp_path)
    found = entries(tmp_path / archives.IMAGENET_VAL)
    assert [entry[:2] for entry in found] == [("val", name) for name in ("n03", "n02", "n01")]
    assert found[2][2] == jpeg(203)
    (tmp_path / archives.IMAGENET_DEVKIT).unlink()
    refused("ILSVRC2012_img_val.tar has no labels; accepted: with ILSVRC2012_devkit_t12.tar.gz",
            entries, tmp_path / archives.IMAGENET_VAL)  # fmt: skip


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_of_folders_has_their_classes_and_splits(tmp_path, mode):
    path = tmp_path / "flowers.tar"
    with tarfile.open(path, mode) as archive:
        for name in (
            "a/train/rose/1.jpg", "a/val/rose/2.JPEG", "tulip/3.png", "val/4.jpg",
            "a/train/rose/red/5.jpg", "a/test/rose/red/6.jpg",
        ):  # fmt: skip
            add(archive, name, jpeg())
        for name in ("a/train/rose/notes.txt", "a/train/rose/._1.jpg"):
            add(archive, name, b"no image")
    found = [entry[:2] for entry in entries(path)]
    assert found == [("train", "rose"), ("val", "rose"), ("train", "tulip"), ("train", "val"),
                     ("train", "rose"), ("val", "rose")]  # fmt: skip


def test_what_is_no_such_archive_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar({"1.jpg": jpeg()}))
    refused("a.tar/1.jpg is in no folder; accepted: <class>/", entries, path)
    path.write_bytes(b"no archive")
    refused(f"cannot read {path}: ", entries, path)


def test_a_file_of_an_archive_is_read_up_to_a_size(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    path.write_bytes(tar({"rose/1.jpg": jpeg(), "rose/2.jpg": b"x" * 2000}))
    monkeypatch.setattr(archives, "MAX_BYTES", 1999)
    first, second = archives.tar_entries(path)
    assert first.name == "a.tar/rose/1.jpg"
    refused("size of a.tar/rose/2.jpg is 2000; accepted: at most 1999 bytes", second.read)
    imagenet(tmp_path)
    monkeypatch.setattr(archives, "MAX_BYTES", 7)
    refused("devkit_t12.tar.gz: the size of meta.mat is", entries, tmp_path / archives.IMAGENET_VAL)
    inner = next(archives.tar_entries(tmp_path / archives.IMAGENET_TRAIN))
    refused("size of ILSVRC2012_img_train.tar/n03.tar/n03_0.JPEG is", inner.read)


def header(kind, size=0, at_482=0):
    member = tarfile.TarInfo("rose/1.jpg")
    member.type, member.size = kind, size
    buf = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    buf[482] = at_482
    buf[148:156] = b"%06o\0 " % tarfile.calc_chksums(buf)[0]
    return bytes(buf)


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_header_of_an_archive_is_small(kind, mode, tmp_path):
    """tarfile reads the long name of a file whole, whatever it has been compressed to."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as archive:
        add(archive, "rose/1.jpg", jpeg())
        archive.fileobj.write(header(kind, size=2**20 + 1))
    refused("size of a header is 1048577; accepted: at most 1048576 bytes", entries, path)


def test_a_sparse_file_has_no_parts_without_end(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(header(tarfile.GNUTYPE_SPARSE, at_482=1) + bytes([0] * 504 + [1] * 8) * 4)
    refused("a sparse file of many parts", entries, path)


def test_headers_of_headers_end_in_one_line(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes((header(b"L", size=1) + b"a".ljust(512, b"\0")) * 2000)
    refused(f"cannot read {path}: .*recursion", entries, path)


def test_oxfords_flowers_are_read_as_published(tmp_path):
    """Both of the splits that are meant for it are trained on."""
    splits = dict(trnid=[4, 2], valid=[3], tstid=[1, 6, 5])
    write_flowers(tmp_path, [1, 2, 3, 1, 2, 3], range(40, 280, 40), **splits)
    train, test = sources.load("oxford_flowers102", str(tmp_path))
    assert list(train.class_names) == ["1", "2", "3"]
    assert [int(train[i]["label"]) for i in range(3)] == [1, 2, 0]
    assert [int(test[i]["label"]) for i in range(3)] == [0, 2, 1]
    assert [int(round(test[i]["image"].mean(), -1)) for i in range(3)] == [40, 240, 200]
    (tmp_path / "setid.mat").write_bytes(b"")
    refused("setid.mat: ", sources.load, "oxford_flowers102", str(tmp_path))
    (tmp_path / "jpg").rename(tmp_path / "other")
    refused("accepted: 102flowers.tgz unpacked", sources.load, "oxford_flowers102", str(tmp_path))


def test_a_flower_without_a_label_is_refused_at_the_start(tmp_path):
    write_flowers(tmp_path, [1, 0, 2], range(40, 160, 40), trnid=[1], valid=[2], tstid=[3])
    refused("the lowest label in .*imagelabels.mat is 0; accepted: 1 and more",
            sources.load, "oxford_flowers102", str(tmp_path))  # fmt: skip

"""tools.prepare and what it writes, convnext.data.arrayrecord."""

import json

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from convnext.data import archives, arrayrecord, folders, sources
from convnext.errors import InputError
from tests.helpers.archives import imagenet, jpeg, tar
from tests.helpers.inputs import refused
from tools import prepare


@pytest.fixture
def folder(tmp_path):
    """train: 5 of "a", 4 of "b"; val: 2 of "b". Levels of grey say which image it is."""
    for part, name, values in (("train", "a", range(0, 50, 10)), ("train", "b", range(50, 90, 10)),
                               ("val", "b", (200, 220))):  # fmt: skip
        (tmp_path / "in" / part / name).mkdir(parents=True)
        for value in values:
            (tmp_path / "in" / part / name / f"{value:03d}.jpg").write_bytes(jpeg(value))
    return tmp_path / "in"


def summary(source):
    """(grey, class) of each example."""
    examples = [source[np.int64(i)] for i in range(len(source))]
    return [
        (round(float(example["image"].mean()), -1), source.class_names[example["label"]])
        for example in examples
    ]


def test_a_folder_is_written_in_shards_and_read_again(folder, tmp_path, capsys):
    prepare.main([f"--source={folder}", f"--out={tmp_path / 'out'}", "--images_per_shard=4",
                  "--num_workers=2"])  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    shards = [f"train-0000{i}.array_record" for i in range(3)] + ["val-00000.array_record"]
    assert names == ["dataset.json", *shards]
    assert "train: 9 images in 3 shards\nval: 2 images in 1 shards\n" in capsys.readouterr().out
    train, val = sources.load("arrayrecord", str(tmp_path / "out"))
    assert summary(train) == [(v, "a") for v in range(0, 50, 10)] + [
        (v, "b") for v in range(50, 90, 10)
    ]
    assert summary(val) == [(200, "b"), (220, "b")] and list(val.class_names) == ["a", "b"]
    assert train[0]["label"].dtype == np.int32


def test_a_file_of_an_archive_that_is_too_large_is_left_out(tmp_path, monkeypatch, capsys):
    source = tmp_path / "a.tar"
    source.write_bytes(tar({"rose/1.jpg": jpeg(), "rose/2.jpg": jpeg() + bytes(9000)}))
    monkeypatch.setattr(archives, "MAX_BYTES", 9000)
    prepare.prepare(source, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "skipped: the size of a.tar/rose/2.jpg is" in printed
    assert "train: 1 images in 1 shards" in printed


def test_a_damaged_image_is_reported_and_left_out(folder, tmp_path, capsys):
    path = folder / "train" / "a" / "020.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    prepare.prepare(folder, tmp_path / "out")
    printed = capsys.readouterr().out
    assert f"cannot read the image {path}" in printed.replace("\n", "")
    assert "1 damaged images skipped" in printed
    train, _ = sources.load("arrayrecord", str(tmp_path / "out"))
    assert [value for value, _ in summary(train)][:4] == [0, 10, 30, 40]


@pytest.mark.parametrize("after", [0, 3, 4, 7, 9, 10])
def test_the_same_command_goes_on_after_the_last_whole_shard(folder, tmp_path, monkeypatch, after):
    (folder / "train" / "a" / "010.jpg").write_bytes(b"")
    prepare.prepare(folder, tmp_path / "whole", images_per_shard=4)
    add, count = prepare._Shard.add, 0

    def killed(self, *args):
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        add(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(prepare._Shard, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(folder, tmp_path / "out", images_per_shard=4)
    if after >= 5:
        refused("out is not complete; accepted: the same tools.prepare again", sources.load,
                "arrayrecord", str(tmp_path / "out"))  # fmt: skip
    read, read_entries = [], prepare._read
    monkeypatch.setattr(prepare, "_read", lambda entry: read.append(entry) or read_entries(entry))
    prepare.prepare(folder, tmp_path / "out", images_per_shard=4)
    assert len(read) == {0: 11, 3: 11, 4: 11, 7: 6, 9: 2, 10: 2}[after]
    for name in [path.name for path in (tmp_path / "whole").iterdir()]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob("*.tmp"))


@pytest.fixture
def interrupted(folder, tmp_path, monkeypatch):
    """Two shards of "a" are written, of 4 and 1 images; the rest is not."""
    add = prepare._Shard.add

    def killed(self, entry, *args):
        if entry.class_name == "b":
            raise KeyboardInterrupt
        add(self, entry, *args)

    with monkeypatch.context() as patched:
        patched.setattr(prepare._Shard, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(folder, tmp_path / "out", images_per_shard=4)
    return tmp_path / "out"


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_a_source_whose_images_have_changed_is_not_gone_on_with(folder, interrupted, change):
    first, before = folder / "train" / "a" / "000.jpg", arrayrecord.read_index(interrupted)
    if change == "added":
        (folder / "train" / "a" / "005.jpg").write_bytes(jpeg(5))
    elif change == "removed":
        first.unlink()
    else:
        first.rename(first.with_name("001.jpg"))
    refused("in begins with other images than those that .*out has of it; accepted: the source",
            prepare.prepare, folder, interrupted, images_per_shard=4)  # fmt: skip
    assert arrayrecord.read_index(interrupted) == before


def test_images_that_were_not_reached_may_change(folder, interrupted, monkeypatch):
    (folder / "train" / "b" / "085.jpg").write_bytes(jpeg(85))
    (folder / "val" / "b" / "200.jpg").unlink()
    monkeypatch.chdir(folder.parent)
    prepare.prepare(folder.relative_to(folder.parent), interrupted, images_per_shard=4)
    train, val = sources.load("arrayrecord", str(interrupted))
    assert (len(train), summary(val)) == (10, [(220, "b")])


def test_a_class_to_validate_on_alone_is_refused(tmp_path):
    path = tmp_path / "flowers.tar"
    files = {"val/tulip/1.jpg": jpeg(1), "train/rose/2.jpg": jpeg(2), "val/rose/3.jpg": jpeg(3)}
    path.write_bytes(tar(files))
    said = "class 'tulip' is in val but not in train of .*flowers.tar; accepted: validation classes"
    refused(said, prepare.prepare, path, tmp_path / "out")
    assert not arrayrecord.read_index(tmp_path / "out")["complete"]
    refused(said, prepare.prepare, path, tmp_path / "out")
    path.write_bytes(tar({**files, "train/tulip/4.jpg": jpeg(4)}))
    prepare.prepare(path, tmp_path / "out")
    train, val = sources.load("arrayrecord", str(tmp_path / "out"))
    assert (len(train), len(val), list(val.class_names)) == (2, 2, ["rose", "tulip"])


def test_a_complete_data_set_is_left_as_it_is(folder, tmp_path, monkeypatch):
    prepare.prepare(folder, tmp_path / "out")
    monkeypatch.setattr(prepare, "_write", None)
    prepare.prepare(folder, tmp_path / "out")
    refused("--images_per_shard is 7; accepted: 8192, as ", prepare.prepare, folder,
            tmp_path / "out", images_per_shard=7)  # fmt: skip


def test_imagenets_archives_are_one_source(tmp_path):
    imagenet(tmp_path)
    prepare.prepare(tmp_path, tmp_path / "out")
    train, val = sources.load("arrayrecord", str(tmp_path / "out"))
    assert list(train.class_names) == ["n01", "n02", "n03"]  # in the order of the synsets
    assert summary(train) == [
        (0, "n03"),
        (0, "n03"),
        (40, "n01"),
        (40, "n01"),
        (80, "n02"),
        (80, "n02"),
    ]
    assert summary(val) == [(200, "n03"), (200, "n02"), (200, "n01")]
    shares = [entry.done for entry in prepare._entries(tmp_path, None)]
    assert shares == sorted(shares) and shares[0] < 0.2 and 0.5 < shares[-1] < 1


def test_a_source_without_a_validation_part_can_keep_one(folder, tmp_path):
    prepare.prepare(folder / "train", tmp_path / "one")
    with pytest.raises(InputError, match="has no validation images"):
        sources.load("arrayrecord", str(tmp_path / "one"))
    prepare.prepare(folder / "train", tmp_path / "two", val_fraction=0.25)
    train, val = sources.load("arrayrecord", str(tmp_path / "two"))
    assert (len(train), len(val)) == (6, 3)
    listed = folders.load(folder / "train", val_fraction=0.25)
    assert [len(part) for part in listed] == [6, 3]


def test_what_cannot_be_prepared_is_refused(tmp_path):
    refused("--source is '/no/such'; accepted: a folder, or a tar archive", prepare.prepare,
            tmp_path.__class__("/no/such"), tmp_path / "out")  # fmt: skip
    empty = tmp_path / "empty.tar"
    empty.write_bytes(tar({"notes.txt": b"no image"}))
    refused("--source is .*empty.tar'; accepted: a folder or archive with images",
            prepare.prepare, empty, tmp_path / "out")  # fmt: skip


def test_shards_that_are_not_there_are_refused(folder, tmp_path):
    out = tmp_path / "out"
    refused("data.root is not set; accepted: ", sources.load, "arrayrecord")
    refused(f"no dataset.json in {out}; accepted: ", sources.load, "arrayrecord", str(out))
    prepare.prepare(folder, out)
    (out / "val-00000.array_record").unlink()
    refused(f"no shard {out}/val-00000.array_record; ", sources.load, "arrayrecord", str(out))
    index = arrayrecord.read_index(out)
    del index["splits"]["train"]
    (out / "val-00000.array_record").write_bytes(b"")
    (out / arrayrecord.INDEX).write_text(json.dumps(index))
    refused(f"{out} has no training split; ", sources.load, "arrayrecord", str(out))


@pytest.fixture
def shard(tmp_path):
    """Of four records; to be written again with others."""

    def write(*contents):
        writer = ArrayRecordWriter(
            str(tmp_path / "train-00000.array_record"), "group_size:1,uncompressed"
        )
        for content in contents:
            writer.write(content)
        writer.close()
        shards = [{"file": "train-00000.array_record", "images": len(contents)}]
        index = dict(source="", val_fraction=None, images_per_shard=9, complete=True, read=4,
                     classes=["a", "b"], splits={"train": shards}, damaged=[])  # fmt: skip
        arrayrecord.write_index(tmp_path, index)
        return index

    return write


def test_a_damaged_record_is_named_by_its_shard_and_place(shard, tmp_path):
    image = jpeg(1)
    damaged = [
        b"", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000,
        msgpack.packb(3), msgpack.packb({"image": image}),
        msgpack.packb({"image": image, "class": ["a"], "name": "x"}),
        arrayrecord.pack("text", "a", "x"), arrayrecord.pack(image, "a", b"x"),
        arrayrecord.pack(image, "c", "x"),
        arrayrecord.pack(image, "a", "x")[:-1], arrayrecord.pack(image, "a", "x") + b"x",
    ]  # fmt: skip
    shard(arrayrecord.pack(image, "b", "x"), *damaged)
    train, _ = arrayrecord.load(str(tmp_path))
    assert train[0]["label"] == 1
    for place in range(1, len(damaged) + 1):
        message = f"record {place} of {tmp_path}/train-00000.array_record.*; accepted: "
        refused(message, train.__getitem__, place)


def test_a_shard_that_was_changed_is_named(shard, tmp_path):
    shard(*[arrayrecord.pack(jpeg(1), "a", "x" * 1000)] * 3)
    path = tmp_path / "train-00000.array_record"
    path.write_bytes(path.read_bytes()[:70_000])
    refused(
        f"cannot read the shards in {tmp_path}: .*; accepted: ", arrayrecord.load, str(tmp_path)
    )
    shard(*[arrayrecord.pack(jpeg(1), "a", "x" * 1000)] * 3)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"xxxx")] ^= 1
    path.write_bytes(data)
    train, _ = arrayrecord.load(str(tmp_path))
    refused(f"cannot read record [012] of {path}: .*; accepted: ",
            lambda: [train[place] for place in range(3)])  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"splits": {"train": [{"file": "../train-00000.array_record", "images": 1}]}},
        {"splits": {"train": [{"file": "train-00000.array_record[0:9]", "images": 1}]}},
        {"splits": {"train": [{"file": "train-00000.array_record", "images": 0}]}},
        {"splits": {"train": [{"file": "train-00000.array_record", "images": 2}]}},
        {"splits": {"train": [{"file": "train-00000.array_record", "images": 10**30}]}},
        {"splits": {"train": ["train-00000.array_record"]}},
        {"splits": []}, {"complete": 1}, {"classes": ["a", "a"]}, {"classes": "ab"},
        {"classes": [1]}, {"damaged": None}, {"read": "4"}, {"names": 4}, {"train_classes": [1]},
    ],
)  # fmt: skip
def test_an_index_is_checked(change, shard, tmp_path):
    index = shard(arrayrecord.pack(jpeg(1), "a", "x"))
    arrayrecord.load(str(tmp_path))
    (tmp_path / arrayrecord.INDEX).write_text(json.dumps(index | change))
    refused(f"{tmp_path}.*accepted: ", arrayrecord.load, str(tmp_path))


def test_an_index_names_shards_beside_it(shard, tmp_path):
    """One that lies elsewhere is not opened, though it is there."""
    index = shard(arrayrecord.pack(jpeg(1), "a", "x"))
    (tmp_path / "root").mkdir()
    index["splits"]["train"][0]["file"] = "../train-00000.array_record"
    arrayrecord.write_index(tmp_path / "root", index)
    refused(f"{tmp_path}/root/dataset.json does not name .*accepted: ", arrayrecord.load,
            str(tmp_path / "root"))  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_an_index_is_a_json_object(content, tmp_path):
    (tmp_path / arrayrecord.INDEX).write_bytes(content)
    refused(f"{tmp_path}/dataset.json.*; accepted: ", arrayrecord.load, str(tmp_path))

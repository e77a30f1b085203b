import argparse
import io
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convnext.errors import InputError
from convnext.files import torch_save
from tests.helpers.inputs import refused

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "pretrained" / "official_v1.pth"


def archive(path, pickled, storages=(), compression=zipfile.ZIP_STORED, byteorder=b"little"):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", byteorder)
        for key, content in enumerate(storages):
            file.writestr(f"archive/data/{key}", content)
    return path


class Global:
    """Pickled as a reference to module.name, called with arguments."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    def __init__(self, kind, key, size):
        self.kind, self.key, self.size = kind, key, size


class Pickler(pickle._Pickler):
    """Writes what torch.save writes, and worse, without torch."""

    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", Global("torch", value.kind), value.key, "cpu", value.size)
        return None

    def save_global_reference(self, value):
        self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        if value.arguments:
            self.save(value.arguments)
            self.write(pickle.REDUCE)

    dispatch = {**pickle._Pickler.dispatch, Global: save_global_reference}


def pickled(value):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def tensor(kind="FloatStorage", size=(2, 3), stride=(3, 1), offset=0, numbers=6):
    return Global(
        "torch._utils", "_rebuild_tensor_v2",
        Storage(kind, "0", numbers), offset, size, stride, False, OrderedDict(),
    )  # fmt: skip


def test_a_checkpoint_by_torch_save_is_read():
    stored = torch_save.read(CHECKPOINT)
    assert set(stored) == {"model", "model_ema", "optimizer", "epoch", "scaler", "args"}
    assert stored["epoch"] == 299
    assert stored["model"]["head.weight"].shape == (5, 12)
    assert stored["model"]["head.weight"].dtype == np.float32
    assert not isinstance(stored["args"], argparse.Namespace)


def test_strides_and_offsets_are_followed(tmp_path):
    numbers = np.arange(12, dtype="<f4")
    value = {"t": tensor(size=(3, 2), stride=(1, 4), offset=1, numbers=12)}
    stored = torch_save.read(archive(tmp_path / "a.pth", pickled(value), [numbers.tobytes()]))
    np.testing.assert_array_equal(stored["t"], [[1, 5], [2, 6], [3, 7]])


@pytest.mark.parametrize(
    "kind, dtype",
    [("DoubleStorage", np.float64), ("HalfStorage", np.float16), ("LongStorage", np.int64),
     ("IntStorage", np.int32), ("ShortStorage", np.int16), ("CharStorage", np.int8),
     ("ByteStorage", np.uint8), ("BFloat16Storage", ml_dtypes.bfloat16),
     ("BoolStorage", np.bool_)],
)  # fmt: skip
def test_every_kind_of_number_keeps_its_value(kind, dtype, tmp_path):
    numbers = np.array([0, 1, 200, -3, 1, 1]).astype(dtype)
    path = archive(tmp_path / "a.pth", pickled(tensor(kind)), [numbers.tobytes()])
    stored = torch_save.read(path)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, numbers.reshape(2, 3))


def test_parameters_sizes_and_empty_tensors_are_read(tmp_path):
    parameter = Global("torch._utils", "_rebuild_parameter", tensor(), True, OrderedDict())
    value = {"p": parameter, "s": Global("torch", "Size", (2, 3)), "e": tensor(size=(0, 3))}
    numbers = np.arange(6, dtype="<f4")
    stored = torch_save.read(archive(tmp_path / "a.pth", pickled(value), [numbers.tobytes()]))
    np.testing.assert_array_equal(stored["p"], numbers.reshape(2, 3))
    assert stored["s"] == (2, 3) and stored["e"].shape == (0, 3)
    assert not stored["p"].flags.writeable


HOSTILE = [
    Global("os", "system", "touch executed"),
    Global("builtins", "eval", "open('executed', 'w')"),
    Global("builtins", "getattr", 1, "real"),
    Global("torch", "load", "executed"),
    Global("torch.FloatStorage", "from_file", "executed"),
    Global("torch._utils", "_rebuild_tensor_v3", 1),
    Global("numpy", "load", "executed"),
    Global("collections", "Counter", (1,)),
    {"model": OrderedDict(a=Global("posix", "system", "touch executed"))},
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: getattr(v, "name", "nested"))
def test_a_hostile_file_is_refused_and_executes_nothing(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "hostile.pth", pickled(value))
    with pytest.raises(InputError, match=r"hostile.pth is refused: it refers to \S+; acc"):
        torch_save.read(path)
    assert os.listdir(tmp_path) == ["hostile.pth"]


@pytest.mark.parametrize(
    "name, state",
    [
        ("torch BFloat16Storage", (3, "<", None, None, None, 64, 64, 0)),
        ("torch._utils _rebuild_tensor_v2", (None, {"__defaults__": (1,)})),
        ("argparse Namespace", (None, {"__new__": 1})),
        ("collections OrderedDict", (None, {"__getitem__": 1})),
    ],
)
def test_what_a_name_stands_for_cannot_be_changed(name, state, tmp_path):
    """BUILD would set the state of what a name refers to: a type of this process."""
    module, attribute = name.split()
    stream = io.BytesIO()
    pickler = Pickler(stream, protocol=2)
    pickler.write(pickle.PROTO + b"\x02")
    pickler.save(Global(module, attribute))
    pickler.save(state)
    stream.write(pickle.BUILD + pickle.STOP)
    path = archive(tmp_path / "a.pth", stream.getvalue())
    before = torch_save.read(archive(tmp_path / "b.pth", pickled(Global(module, attribute))))
    marks = [getattr(before, key, None) for key in ("itemsize", "__defaults__", "__new__")]
    torch_save.read(path)
    assert marks == [getattr(before, key, None) for key in ("itemsize", "__defaults__", "__new__")]


@pytest.mark.parametrize(
    "value",
    [
        tensor(size=(3, 3)),
        tensor(offset=1),
        tensor(stride=(1_000_000, 1)),
        tensor(offset=-4),
        tensor(stride=(-3, 1)),
        tensor(size=(2, 3, 1)),
        tensor(numbers=5),
        tensor(numbers=1 << 40),
    ],
)
def test_a_tensor_may_not_leave_its_storage(value, tmp_path):
    numbers = np.arange(6, dtype="<f4").tobytes()
    with pytest.raises(InputError, match="a.pth is damaged"):
        torch_save.read(archive(tmp_path / "a.pth", pickled(value), [numbers]))


class Raw(bytes):
    """Instructions, as they are."""


Pickler.dispatch[Raw] = lambda pickler, value: pickler.write(value)
# A tuple that holds itself twice, 60 times over: to print or convert it takes forever.
ENDLESS = Raw(b")" + b"q\xc8h\xc8\x86" * 60)


@pytest.mark.parametrize(
    "value",
    [
        tensor(numbers=ENDLESS),
        tensor(size=ENDLESS),
        tensor(stride=(ENDLESS, 1)),
        tensor(offset=ENDLESS),
        tensor(kind="Size"),
        Global("torch._utils", "_rebuild_tensor_v2", tensor(size=(6,), stride=(1,)), 0, (6,), (1,)),
        Global("torch._utils", "_rebuild_tensor_v2", ENDLESS, 0, (2, 3), (3, 1)),
        Global("torch", "Size", ENDLESS),
        Global("torch", "Size", Raw(b"C\3abc")),
        Global("torch", "Size", (1,) * 9),
        Global("torch", "Size", (-1,)),
        Global("torch", "Size", (10**5000,)),
    ],
    ids=["numbers", "size", "stride", "offset", "dtype", "tensor of a tensor", "of a tuple",
         "nested size", "bytes", "long size", "negative size", "digits"],
)  # fmt: skip
def test_types_are_looked_at_first(value, tmp_path):
    numbers = np.arange(6, dtype="<f4").tobytes()
    path = archive(tmp_path / "a.pth", pickled(value), [numbers])
    refused("a.pth is damaged: ", torch_save.read, path)


def test_a_key_of_a_storage_is_a_short_string(tmp_path):
    for key in (ENDLESS, "0" * 2000, 0):
        value = tensor()
        value.arguments[0].key = key
        path = archive(tmp_path / "a.pth", pickled(value), [bytes(24)])
        refused("a reference to something else than a storage", torch_save.read, path)


def test_no_entry_is_larger_than_the_file(tmp_path):
    """Memory would be reserved for what the archive says."""
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled(1))
        file.filelist[0].file_size = file.filelist[0].compress_size = 2**31
    refused("its entries are larger than itself", torch_save.read, path)


def test_a_compressed_storage_is_refused(tmp_path):
    path = archive(
        tmp_path / "bomb.pth", pickled(tensor()), [bytes(24)], compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(InputError, match=r"refused: its entry archive/\S+ is compressed"):
        torch_save.read(path)


def test_other_files_are_named(tmp_path):
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="plain.pth is no whole zip archive .* since PyTorch 1.6"):
        torch_save.read(plain)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme", "")
    with pytest.raises(InputError, match="0 entries data.pkl"):
        torch_save.read(tmp_path / "other.zip")
    with pytest.raises(InputError, match="byte order b'big'"):
        torch_save.read(archive(tmp_path / "big.pth", pickled(1), byteorder=b"big"))
    with pytest.raises(InputError, match=r"cannot read .*none.pth: No such file"):
        torch_save.read(tmp_path / "none.pth")


def test_a_tensor_is_no_larger_than_its_storage(tmp_path):
    """A view of one number as a billion would be one when it is copied."""
    numbers = np.arange(6, dtype="<f4").tobytes()
    for size, stride in (((10**9,), (0,)), ((2, 6), (0, 1)), ((7,), (0,))):
        path = archive(tmp_path / "a.pth", pickled(tensor(size=size, stride=stride)), [numbers])
        with pytest.raises(InputError, match="reaches past its storage"):
            torch_save.read(path)


def test_storages_are_no_larger_than_the_file(tmp_path):
    """Each entry of the archive goes on to the end, over all that follow."""
    path = tmp_path / "a.pth"
    names = [str(number) for number in range(20)]
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"archive/data/{name}", bytes(1000))
        end = file.start_dir
        file.fp.flush()
        content = path.read_bytes()
        sizes = {}
        for info, name in zip(file.filelist, names, strict=True):
            begin = info.header_offset + 30 + len(info.filename)
            info.CRC = zlib.crc32(content[begin:end])
            info.file_size = info.compress_size = sizes[name] = end - begin
        tensors = [
            Global("torch._utils", "_rebuild_tensor_v2",
                   Storage("ByteStorage", name, size), 0, (size,), (1,))
            for name, size in sizes.items()
        ]  # fmt: skip
        file.writestr("archive/data.pkl", pickled(tensors))
    # Later Pythons see it themselves.
    with pytest.raises(InputError, match="entries are larger than itself|Overlapped entries"):
        torch_save.read(path)

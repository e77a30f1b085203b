import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from convnext.errors import InputError
from convnext.weights import locate

FOLDER = Path(__file__).parents[1] / "fixtures" / "pretrained"


def test_a_state_dict_is_found_under_the_keys_of_the_scripts():
    raw, average = {"a": np.zeros(1)}, {"a": np.ones(1)}
    for stored, expected in (
        ({"model": raw, "model_ema": average}, average),
        ({"state_dict": raw, "state_dict_ema": average}, average),
        ({"model": raw, "model_ema": None, "epoch": 3}, raw),
        ({"module": raw}, raw),
        (raw, raw),
    ):
        assert locate.unwrap(stored) == expected
        assert locate.unwrap(stored, "raw") == raw
    with pytest.raises(InputError, match="a list is stored; accepted: a dict of tensors"):
        locate.unwrap([1])
    with pytest.raises(InputError, match="epoch, args are no tensors"):
        locate.unwrap({"a": np.zeros(1), "epoch": 3, "args": None})


def test_a_safetensors_file_has_no_averages():
    with pytest.raises(InputError, match="a safetensors file has one set"):
        locate.read_tensors(FOLDER / "torchvision.safetensors", "ema")


def test_an_index_may_name_files_of_torch(tmp_path):
    shutil.copy(FOLDER / "official_v2.pt", tmp_path / "part.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "part.bin", "b": "part.bin"}}')
    state = locate.read_tensors(index)
    original = locate.read_tensors(FOLDER / "official_v2.pt")
    assert state.keys() == original.keys()


@pytest.mark.parametrize("index", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_map_is_refused(index, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(InputError, match="weight_map of model.safetensors.index.json is"):
        locate.read_tensors(path)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "w.safetensors")
    assert locate.locate("~/w.safetensors") == tmp_path / "w.safetensors"


@pytest.mark.parametrize("name", ["weights/none.pth", "weights/none.safetensors", "x" * 5000])
def test_a_file_that_is_not_there_is_no_id(name):
    with pytest.raises(InputError, match="no file or folder"):
        locate.locate(name)


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "/w.safetensors", "model.safetensors.index.json", "w.txt", ""]
)
def test_an_index_names_weights_beside_it(name, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="accepted: an object of names of files beside it"):
        locate.read_tensors(path)


def test_the_tensors_are_no_larger_than_their_file(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(bytes(1000))
    shared = np.zeros(200, np.float32)
    state = {"a": shared}
    monkeypatch.setattr(locate.torch_save, "read", lambda path: state)
    assert locate.read_tensors(tmp_path / "a.pth").keys() == {"a"}
    state["b"] = shared
    with pytest.raises(
        InputError, match=r"the size of the tensors in .*a\.pth is 1600; accepted: "
    ):
        locate.read_tensors(tmp_path / "a.pth")


def test_a_key_of_a_state_is_a_string():
    for key in (1, 10**5000, b"a"):
        with pytest.raises(InputError, match="type of a key of the state is '(int|bytes)'; acc"):
            locate.unwrap({key: np.zeros(1)})


def test_the_number_of_tensors_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "MAX_TENSORS", 2)
    safetensors.numpy.save_file({key: np.zeros(1) for key in "abc"}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"number of tensors in .*w.safetensors is 3; accepted: 2"):
        locate.read_tensors(tmp_path / "w.safetensors")

import pytest

from convnext.files import text
from tests.helpers.inputs import refused


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    text.replace(path, "ö")
    assert path.read_bytes() == "ö".encode() and list(tmp_path.iterdir()) == [path]

    def fail(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no room"):
        text.replace(path, "o")
    assert path.read_bytes() == "ö".encode()


def test_a_value_is_of_the_kind_that_is_asked_for(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('["ö"]', encoding="utf-8")
    assert text.read_json(path, list) == ["ö"]
    message = "file.json holds a value of type list, not dict; accepted"
    refused(f"{message}: a JSON object", text.read_json, path)
    refused(f"{message}: ours", text.read_json, path, dict, "ours")
    refused("cannot read .*/nothing: .*; accepted: a JSON object", text.read_json,
            tmp_path / "nothing")  # fmt: skip


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_what_is_no_json_object_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    refused(r"config\.json", text.read_json, tmp_path / "config.json")

import pytest

from convnext.runs import log, writers


@pytest.fixture
def said():
    return []


@pytest.fixture
def disk(said):
    return writers.Disk(said.append)


def test_what_the_disk_refuses_is_said_once_for_each_file(disk, said):
    for name in ("a", "b", "a"):
        with disk.writing(name):
            raise OSError("no room")
    assert said == ["a could not be written: no room", "b could not be written: no room"]
    with pytest.raises(ValueError, match="other"), disk.writing("a"):
        raise ValueError("other")


class FullFile:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError("no room")
        data = data[: self.room]
        self.room -= len(data)
        return self.file.write(data)

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


@pytest.mark.parametrize("then", ["another line", "to_disk", "close"])
def test_lines_that_the_disk_refuses_are_written_later(tmp_path, disk, said, then):
    path = tmp_path / "metrics.jsonl"
    lines = writers.Lines(path, [], 0, disk)
    lines._file = FullFile(lines._file, 20)
    lines.write(1, {"a": 1.0})
    lines.write(2, {"a": 2.0})
    with pytest.raises(OSError, match="no room"):
        lines.to_disk()
    assert path.read_text() == '{"step": 1, "a": 1.0' and said == [
        "metrics.jsonl could not be written: no room"
    ]
    lines._file.room = 1000
    if then == "another line":
        lines.write(3, {"a": 3.0})
    elif then == "to_disk":
        lines.to_disk()
    else:
        lines.close()
    expected = [{"step": n, "a": n} for n in range(1, 4 if then == "another line" else 3)]
    assert log.read(path) == expected


def test_only_what_is_new_in_the_line_of_the_start_is_told_to_the_others(tmp_path, disk):
    path = tmp_path / "metrics.jsonl"
    before = [{"step": 1, "b": 1.0}, {"step": 2, "b": 1.0, "a": 2.0}, {"step": 3, "b": 3.0}]
    lines = writers.Lines(path, before, 2, disk)
    assert lines.new(2, {"a": 2.0, "b": 5.0, "c": 0.0}) == {"b": 5.0, "c": 0.0}
    lines.write(2, {"b": 5.0, "c": float("nan")})
    assert lines.new(2, {"a": 2.0, "b": 5.0, "d": 1.0}) == {"d": 1.0}
    assert lines.new(3, {"a": 2.0}) == {"a": 2.0}
    lines.write(3, {"a": 2.0})
    assert path.read_text() == (
        '{"step": 1, "b": 1.0}\n{"step": 2, "a": 2.0, "b": 5.0, "c": null}\n{"step": 3, "a": 2.0}\n'
    )


def test_tensorboard_is_given_up_where_the_disk_refuses_it(tmp_path, disk, said, monkeypatch):
    tensorboard = writers.TensorBoard(tmp_path, 0, disk)
    writer = tensorboard._writer

    def flush():
        raise OSError("no room")

    monkeypatch.setattr(writer, "flush", flush)
    tensorboard.write(7, {"a": 1.0})
    tensorboard.write(8, {"a": 1.0})
    tensorboard.close()
    assert said == ["tensorboard/ is skipped from step 7 on: no room"]
    monkeypatch.undo()
    writer.close()


def test_wandb_is_not_sent_what_it_has(tmp_path):
    sent = []

    class Run:
        define_metric = finish = lambda *_, **__: None

        def log(self, values):
            sent.append(values["step"])

    class Module:
        init = staticmethod(lambda **_: Run())

    for last_step in (4, 3):  # its line of step 4 was cut off the first time
        run = writers.WandB(Module, "digits", tmp_path, {}, 2, last_step)
        for step in (2, 3, 4, 5):  # the first is an addition to its line
            run.write(step, {})
    assert sent == [2, 5, 2, 5] and (tmp_path / "wandb_sent").read_text() == "4"

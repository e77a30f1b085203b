import io

import rich.console

from convnext.runs import console


def on_a_terminal(monkeypatch, **options):
    file = io.StringIO()
    terminal = rich.console.Console(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(console.rich.console, "Console", lambda **_: terminal)
    return console.Console(8, 2, 2.0, console.Score("val/top1"), **options), file


def test_a_terminal_gets_a_bar_and_a_line_for_each_evaluation(monkeypatch):
    shown, file = on_a_terminal(monkeypatch)
    shown.start()
    shown.advance(3)
    shown.write(3, {"train/loss": 0.51234, "train/images_per_second": 7.6})
    shown.write(4, {"val/top1": 0.5})
    shown.close()
    text = file.getvalue()
    assert "   2.00        4            0.5000   0.5000\n" in text and "   1.50   " not in text
    assert "loss 0.5123" in text and "8 images/s" in text and "3/8" in text


def test_a_quiet_console_shows_nothing(monkeypatch):
    shown, file = on_a_terminal(monkeypatch, quiet=True)
    shown.start()
    shown.print("text")
    shown.advance(3)
    shown.close()
    assert file.getvalue() == ""


def test_a_file_gets_every_line(capsys):
    shown = console.Console(8, 2, 2.0, console.Score("-val/loss"))
    shown.start()
    rows = [
        {"train/loss": 0.51234, "train/lr": 0.00123},
        {"train/loss": 0.5, "val/loss": 2.5, "train/images_per_second": 12345.6},
        {"val/top1": 0.5},
        {"train/loss": 0.25, "val/loss": 3.5},
    ]
    for step, values in enumerate(rows, 3):
        shown.write(step, values)
    shown.close()
    assert capsys.readouterr().out == (
        "  epoch     step     loss val loss     best      rate  images/s     left\n"
        "   1.50        3   0.5123                     0.00123\n"
        "   2.00        4   0.5000   2.5000   2.5000              12,346\n"
        "   3.00        6   0.2500   3.5000   2.5000\n"
    )


def test_the_time_left_is_by_all_steps_but_the_first(monkeypatch):
    shown, _ = on_a_terminal(monkeypatch)
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    shown.advance(3)  # compiled
    assert shown._left() == ""
    now = 103.0
    shown.advance(4)
    assert shown._left() == "0:00:12"
    now = 109.0  # with an evaluation
    shown.advance(5)
    assert shown._left() == "0:00:14"


def test_updates_that_were_skipped_are_told_once(capsys):
    shown = console.Console(8, 2, 2.0, console.Score("val/top1"))
    for step, skipped in ((3, 2.0), (4, 2.0), (5, 3.0)):
        shown.write(step, {"train/skipped": skipped})
    assert capsys.readouterr().out == (
        "skipped    2 updates up to step 3: not finite\n"
        "skipped    3 updates up to step 5: not finite\n"
    )

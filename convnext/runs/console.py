"""What a run prints: aligned rows, the best score so far, the time left, a bar on a terminal."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import rich.console
from rich import progress
from rich.text import Text


class Score:
    """The score that chooses the best checkpoint, such as "val_ema/top1"; "-val/loss" is the lower
    the better."""

    def __init__(self, name: str):
        self.name, self._sign = name.removeprefix("-"), -1 if name.startswith("-") else 1
        self.metric = self.name.rpartition("/")[2]
        self.label = {"top1": "top-1", "loss": "val loss"}.get(self.metric, self.metric)
        self.best: float | None = None  # so far
        self.step = 0  # of the best
        self.waited = 0  # evaluations since then

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Takes the values of a line."""
        if self.name not in values:
            return
        value = values[self.name]
        is_finite = value is not None and math.isfinite(value)
        self.waited += 1
        if is_finite and (self.best is None or self._sign * value > self._sign * self.best):
            self.best, self.step, self.waited = value, step, 0


COLUMNS = (
    ("epoch", 7), ("step", 9), ("loss", 9), ("score", 9), ("best", 9), ("rate", 10),
    ("images/s", 10), ("left", 9),
)  # fmt: skip


class Console:
    """Aligned columns: a terminal gets a line for each evaluation, above a progress bar, a file or
    a notebook one for each line of the log. It has `write` and `close`, as writers have.

    score: has the best of the lines of before.
    """

    def __init__(
        self,
        num_steps: int,
        start_step: int,
        steps_per_epoch: float,
        score: Score,
        quiet: bool = False,
    ):
        self._num_steps, self._quiet = num_steps, quiet
        self._steps_per_epoch, self._score = steps_per_epoch, score
        self._has_header = False
        self._skipped = 0.0
        self._step = start_step
        self._since: tuple[float, int] | None = None  # when the first step was made
        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[loss]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            _Left(self._left),
            progress.TextColumn("{task.fields[rate]}"),
            # In a notebook rich would make a widget of each line, or take its page for a terminal.
            console=rich.console.Console(force_jupyter=False, force_terminal=sys.stdout.isatty()),
        )
        self._task = self._bar.add_task("", total=num_steps, completed=start_step, loss="", rate="")
        self._shows_bar = self._bar.console.is_terminal and not quiet

    def start(self) -> None:
        """Shows the bar."""
        if self._shows_bar:
            self._bar.start()

    def print(self, text: str) -> None:
        """Prints a text as it is, above the bar."""
        if not self._quiet:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Moves the bar to this step."""
        self._step = step
        if self._since is None:  # the first step is mostly compilation
            self._since = time.monotonic(), step
        self._bar.update(self._task, completed=step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Prints what has a column, or shows in the bar what it has room for."""
        self._score.add(step, values)
        if (skipped := values.get("train/skipped", 0)) > self._skipped:
            self._skipped = skipped
            self.print(f"skipped    {skipped:.0f} updates up to step {step:,}: not finite")
        if self._score.name in values or ("train/loss" in values and not self._shows_bar):
            self._print_row(step, values)
        shown = {}
        if "train/loss" in values:
            shown["loss"] = f"loss {values['train/loss']:.4f}"
        if rate := values.get("train/images_per_second"):
            shown["rate"] = f"{rate:,.0f} images/s"
        self._bar.update(self._task, **shown)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._shows_bar:
            self._bar.stop()

    def _print_row(self, step, values):
        if not self._has_header:
            self._has_header = True
            self.print(_row({name: name for name, _ in COLUMNS} | {"score": self._score.label}))
        cells = {
            "epoch": f"{step / self._steps_per_epoch:.2f}",
            "step": f"{step:,}",
            "loss": _text(values.get("train/loss"), ".4f"),
            "score": _text(values.get(self._score.name), ".4f"),
            "best": _text(self._score.best, ".4f") if self._score.name in values else "",
            "rate": _text(values.get("train/lr"), ".3g"),
            "images/s": _text(values.get("train/images_per_second"), ",.0f"),
            "left": self._left(),
        }
        self.print(_row(cells))

    def _left(self):
        """The time left, as the steps so far took, with what was done between them."""
        since, before = self._since or (0.0, self._step)
        if self._step == before:
            return ""
        seconds = (time.monotonic() - since) / (self._step - before)
        return str(timedelta(seconds=round(seconds * (self._num_steps - self._step))))


class _Left(progress.ProgressColumn):
    """The time left. rich's own looks at the last half minute, in which steps come in bursts."""

    def __init__(self, left: Callable[[], str]):
        super().__init__()
        self._left = left

    def render(self, task: progress.Task) -> Text:
        return Text(self._left())


def _row(cells):
    return "".join(cells[name].rjust(width) for name, width in COLUMNS).rstrip()


def _text(value, form):
    return "" if value is None else format(value, form)

"""Very small runs, in this process and by the commands."""

import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configs import digits
from convnext.runs import log

ROOT = Path(__file__).parents[2]
# 4 epochs of 11 steps.
SMALL = {
    "num_epochs": 4,
    "batch_size": 128,
    "ema_decays": (0.9, 0.5),
    "eval_every_epochs": 2,
    "checkpoint_every_epochs": 1,
    "model.depths": (1, 1),
    "model.dims": (8, 16),
    "model.layer_scale_init_value": 1.0,
    "schedule.peak_lr": 0.01,
    "schedule.warmup_epochs": 1,
    "log.every_steps": 5,
}


def small(**changes):
    config = digits.get_config()
    config.update_from_flattened_dict({**SMALL, **changes})
    return config


def command(script, workdir, *flags):
    overrides = [f"--config.{name}={value}" for name, value in SMALL.items()]
    return [sys.executable, script, "--config=configs/digits.py", f"--workdir={workdir}",
            *overrides, *flags]  # fmt: skip


def run(*arguments):
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)


IMPATIENT = """
import runpy, sys
from convnext import hosts
hosts.HEARTBEAT_TIMEOUT, hosts.PARTING_TIMEOUT = 8, 2
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TWO_DEVICES = ["env", "JAX_NUM_CPU_DEVICES=2"]


@contextmanager
def two_processes(script, workdir, *flags, program=IMPATIENT):
    """Of one command, with two devices each. One that is killed is missed after 8 s, not 60."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:
        processes = []
        for index in (0, 1):
            place = [f"--coordinator={address}", "--num_processes=2", f"--process_id={index}"]
            python, *others = command(script, workdir, *flags, *place)
            process = subprocess.Popen(
                [*TWO_DEVICES, python, "-c", program, *others], cwd=ROOT, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def wait_for(line_start, process):
    next(line for line in process.stdout if line.startswith(line_start))


def log_without_timing(workdir):
    lines = log.read(workdir / "metrics.jsonl")
    timings = ("second", "wait")
    return [{k: v for k, v in line.items() if not any(t in k for t in timings)} for line in lines]

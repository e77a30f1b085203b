"""The launch examples, with stand-ins for what SLURM and gcloud provide."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Two tasks on this machine, and the highest of their statuses, as srun has it.
SRUN = """
test "$1" = --cpus-per-task=12 && shift
export SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first; status=$?
wait $second || status=$?
exit $status
"""


@pytest.fixture
def launched(tmp_path):
    """(script, arguments, programs, variables) -> its result; programs: {name: text in bash}."""

    def launch(script, arguments, programs, **variables):
        for name, text in programs.items():
            (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            [ROOT / "scripts" / script, *arguments], env={**os.environ, "PATH": path, **variables},
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return launch


def slurm(**variables):
    return dict(
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_ID=str(os.getpid()),
        SLURM_CPUS_PER_TASK="12",
        **variables,
    )


@pytest.mark.slow
def test_the_tasks_of_slurm_are_one_run(launched, tmp_path):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", "--dry_run"]
    result = launched("slurm.sh", flags, {"srun": SRUN},
                      **slurm(PYTHON=sys.executable, JAX_NUM_CPU_DEVICES="2"))  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("devices    4 cpu, mesh data 4 x fsdp 1\n") == 1


@pytest.mark.parametrize("status, requeued", [(75, "requeue "), (1, None), (0, None)])
def test_what_was_interrupted_is_queued_again(launched, tmp_path, status, requeued):
    programs = {"srun": SRUN, "python": f"echo $@; exit {status}",
                "scontrol": "echo $1 $2 >> requeued"}  # fmt: skip
    variables = slurm(PYTHON=str(tmp_path / "python"))
    variables["SLURM_SUBMIT_DIR"] = str(tmp_path)
    result = launched("slurm.sh", ["--config=a b"], programs, **variables)
    assert result.returncode == status
    assert result.stdout == "train.py --config=a b\n" * 2
    said = tmp_path / "requeued"
    assert said.exists() == bool(requeued)
    if requeued:
        assert said.read_text() == f"requeue {variables['SLURM_JOB_ID']}\n"


# Runs on "this host", a folder, what is sent to all of them, with the variables that Google sets.
GCLOUD = """
cd host
export TPU_WORKER_ID=0 TPU_WORKER_HOSTNAMES=10.164.0.2,10.164.0.3 TPU_ACCELERATOR_TYPE=v5litepod-16
export TPU_CHIPS_PER_HOST_BOUNDS=2,4,1 TPU_HOST_BOUNDS=1,2,1
for argument in "$@"; do
  case $argument in --command=*) bash -c "${argument#--command=}";; *) echo "$argument";; esac
done
"""
# Tells its arguments; as that of the environment, which it is copied to, it also obeys them.
PYTHON = f"""
printf "<%s>" "$@"
test "$3" != venv || {{ mkdir -p .venv/bin; cp "$0" .venv/bin/python; }}
test "$1" != train.py || {{ echo; exec {sys.executable} "$@"; }}
"""
GIT = f"""
echo "git $@"
test $1 != clone || {{ mkdir convnext; ln -s {ROOT}/* convnext; }}
"""


@pytest.mark.slow
def test_each_host_of_a_tpu_installs_and_runs_the_same_command(launched, tmp_path):
    (tmp_path / "host").mkdir()
    programs = {"gcloud": f"cd {tmp_path}\n{GCLOUD}", "python3": PYTHON, "git": GIT}
    flags = ["--config=configs/digits.py", "--config.model.dims=(8, 16, 24)", "--workdir=it's",
             "--dry_run"]  # fmt: skip
    variables = dict(TPU="pod", ZONE="us-west4-a", REPOSITORY="https://example.org/a b.git")
    result = launched("tpu_vm.sh", flags, programs, **variables)
    assert result.returncode == 0, result.stderr
    to_all = "compute\ntpus\ntpu-vm\nssh\npod\n--zone=us-west4-a\n--worker=all\n"
    said = (
        f"{to_all}git clone --quiet https://example.org/a b.git convnext\ngit pull --quiet\n"
        "<-m><pip><install><--quiet><--user><uv><-m><uv><venv><--quiet><--python><3.12><.venv>"
        "<-m><uv><pip><install><--quiet><-r><requirements.txt><jax[tpu]>"
        f"{to_all}<train.py><--config=configs/digits.py><--config.model.dims=(8, 16, 24)>"
        "<--workdir=it's><--dry_run>\n"
    )
    assert result.stdout.startswith(said)
    of_the_run = result.stdout.removeprefix(said)
    assert of_the_run.startswith("devices    8 cpu, mesh data 8 x fsdp 1\nmodel ")
    assert "dims (8, 16, 24)" in of_the_run
    missing = launched("tpu_vm.sh", flags, programs, TPU="pod")
    assert missing.returncode != 0 and "ZONE: is its zone" in missing.stderr

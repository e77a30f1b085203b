#!/usr/bin/env bash
#SBATCH --job-name=convnext
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Trains on the GPUs of several nodes:
#
#   sbatch scripts/slurm.sh --config=configs/convnext_tiny.py --workdir=/shared/runs/tiny
#
# One process a GPU, which is how JAX reads SLURM's variables. Five minutes before the time is up, or
# where the job is preempted, all processes get SIGTERM, save, and end with status 75; the job is then
# queued again and goes on. The repository, the workdir and the data must be seen by all nodes.
# PYTHON is the interpreter with the requirements and jax[cuda13], .venv/bin/python by default.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is set by sbatch: sbatch scripts/slurm.sh --config=...}"

status=0
# srun does not take over the CPUs of a task by itself (Slurm 22.05 and later).
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${PYTHON:-.venv/bin/python}" train.py "$@" ||
  status=$?
if [[ $status -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

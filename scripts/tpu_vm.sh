#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU, from a machine with gcloud:
#
#   TPU=my-tpu ZONE=us-west4-a scripts/tpu_vm.sh --config=configs/convnext_tiny.py --workdir=/mnt/runs/tiny
#
# The hosts find each other by themselves. Each installs the repository in ~/convnext first, from
# REPOSITORY, by default where this one was cloned from, and gets a Python by uv, as Ubuntu 22.04 has
# 3.10. The workdir and the data must be seen by all hosts, on Filestore, say; the file system of the
# workdir must rename a folder in one step and append to a file. The same command again goes on where
# the run stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TPU:?is the name of a TPU}" "${ZONE:?is its zone}"
repository=${REPOSITORY:-$(git remote get-url origin)}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

on_all_hosts "set -e
  test -d convnext || git clone --quiet $(printf %q "$repository") convnext
  cd convnext && git pull --quiet
  python3 -m pip install --quiet --user uv
  test -d .venv || python3 -m uv venv --quiet --python 3.12 .venv
  python3 -m uv pip install --quiet -r requirements.txt 'jax[tpu]'"
on_all_hosts "cd convnext && .venv/bin/python train.py${1:+$(printf ' %q' "$@")}"

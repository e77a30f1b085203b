#!/usr/bin/env bash
# Checks and measures what only an NVIDIA GPU can say, in 400 seconds: `python -m dev.gpu_check`,
# with a GPU that PyTorch shares. PYTHON is an interpreter with jax[cuda13] and, beside it, torch and
# timm; the flags are those of the command, --rehearse for a machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.45}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m dev.gpu_check "$@"

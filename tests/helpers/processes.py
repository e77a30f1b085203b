"""Threads that take themselves for the processes of a run, to test what these agree on."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils


def together(monkeypatch, *functions):
    """What each function returned or raised, called as process 0, 1 and so on."""
    count = len(functions)
    this, rows, barrier = threading.local(), [None] * count, threading.Barrier(count, timeout=20)

    def exchange(row):
        rows[this.index] = np.asarray(row)
        barrier.wait()
        of_all = list(rows)
        barrier.wait()
        return of_all

    def allgather(row, tiled=False):
        of_all = np.stack(exchange(row))
        return of_all.reshape(-1, *of_all.shape[2:]) if tiled else of_all

    def process(index):
        this.index = index
        try:
            return functions[index]()
        except Exception as error:
            return error

    with monkeypatch.context() as patch, ThreadPoolExecutor(count) as threads:
        patch.setattr(jax, "process_count", lambda: count)
        patch.setattr(jax, "process_index", lambda: this.index)
        patch.setattr(multihost_utils, "process_allgather", allgather)
        patch.setattr(multihost_utils, "broadcast_one_to_all", lambda row: exchange(row)[0])
        return list(threads.map(process, range(count)))

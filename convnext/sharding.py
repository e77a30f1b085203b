"""Mesh with the axes "data" and "fsdp". The batch is split over both, the state over "fsdp"."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from convnext.errors import InputError, require


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """Returns a mesh over all devices. data = -1 takes what fsdp leaves.

    The devices of a process are adjacent, so that its rows of a batch are (batches.process_rows).
    jax.make_mesh would follow the wires of a TPU pod instead. Raises InputError if the two axes do
    not use every device.
    """
    devices = jax.device_count()
    require(fsdp >= 1, "mesh.fsdp", fsdp, "1 and more")
    if data == -1:
        data = max(devices // fsdp, 1)
    if data * fsdp != devices:
        raise InputError(
            f"mesh.data x mesh.fsdp is {data} x {fsdp}",
            f"a product of {devices}, the number of devices",
        )
    in_order = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(
        np.array(in_order).reshape(data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2
    )


def check_batch_size(batch_size: int, mesh: Mesh, accumulation_steps: int = 1) -> None:
    """Raises InputError unless every device gets the same number of rows of every part of a
    batch."""
    require(accumulation_steps >= 1, "accumulation_steps", accumulation_steps, "1 and more")
    parts = mesh.size * accumulation_steps
    if batch_size % parts:
        raise InputError(
            f"batch_size is {batch_size}",
            f"multiples of {parts}, for {mesh.size} devices "
            f"and {accumulation_steps} accumulation steps",
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis, the batch, over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that copies an array to every device."""
    return NamedSharding(mesh, P())


def state_sharding(abstract_state: Any, mesh: Mesh) -> Any:
    """Returns a sharding for each leaf: the longest axis that fsdp divides is split, if there is
    one."""
    fsdp = mesh.shape["fsdp"]

    def leaf_sharding(leaf):
        divisible = [size if size % fsdp == 0 else 0 for size in leaf.shape]
        if fsdp == 1 or not any(divisible):
            return replicated(mesh)
        axis = int(np.argmax(divisible))
        return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

    return jax.tree.map(leaf_sharding, abstract_state)

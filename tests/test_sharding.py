from dataclasses import dataclass

import jax
import pytest

from convnext import sharding
from convnext.errors import InputError


def test_the_mesh_uses_every_device():
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(sharding.make_mesh(data=-1, fsdp=4).shape) == {"data": 2, "fsdp": 4}
    assert sharding.make_mesh(data=2, fsdp=4).size == jax.device_count()


@dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    platform: str = "tpu"


def test_the_devices_of_a_process_stand_together(monkeypatch):
    devices = [Device(number, process_index=number // 2 % 2) for number in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    mesh = sharding.make_mesh(fsdp=2)
    assert [device.process_index for device in mesh.devices.ravel()] == [0] * 4 + [1] * 4


@pytest.mark.parametrize("axes", [dict(data=4), dict(fsdp=3), dict(data=4, fsdp=4)])
def test_a_mesh_that_leaves_devices_out_or_needs_more_is_refused(axes):
    with pytest.raises(InputError, match="accepted: a product of 8, the number of devices"):
        sharding.make_mesh(**axes)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    mesh = sharding.make_mesh()
    sharding.check_batch_size(64, mesh, accumulation_steps=4)
    with pytest.raises(InputError, match="batch_size is 60; accepted: multiples of 8,"):
        sharding.check_batch_size(60, mesh)
    with pytest.raises(InputError, match="batch_size is 40; accepted: multiples of 16,"):
        sharding.check_batch_size(40, mesh, accumulation_steps=2)


def test_fsdp_splits_the_longest_axis_that_it_divides():
    mesh = sharding.make_mesh(fsdp=4)
    shapes = {"kernel": (7, 7, 1, 8), "wide": (16, 64), "bias": (6,), "step": ()}
    state = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    specs = {name: s.spec for name, s in sharding.state_sharding(state, mesh).items()}
    assert specs == {
        "kernel": jax.P(None, None, None, "fsdp"),
        "wide": jax.P(None, "fsdp"),
        "bias": jax.P(),
        "step": jax.P(),
    }
    replicated = sharding.state_sharding(state, sharding.make_mesh())
    assert {s.spec for s in replicated.values()} == {jax.P()}

"""What the training step moves between devices, by the programs that are compiled for eight."""

import math
from collections import Counter
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import ConvNeXt, sharding
from convnext.kernels import outline
from convnext.training import erasing, mixup, optimizer, steps
from dev.benchmarks import collectives
from dev.benchmarks.collectives import REDUCTIONS, Collective
from dev.benchmarks.hlo import Array
from tests.helpers import classifiers

pytestmark = pytest.mark.slow
# Every array of examples has a size that 5 divides; no parameter has.
ROWS, SIZE = 8 * 10, 16
MODEL = ConvNeXt(depths=(1, 1), dims=(64, 128), num_classes=7, drop_path_rate=0.2)
MIXED = dict(stages=2, accumulation_steps=1, remat=False, clip_norm=1.0, group_size=5)  # and erased
ACROSS = MIXED | dict(stages=1, group_size=20)  # with the images of the next device
IN_PARTS = dict(stages=2, accumulation_steps=2, remat=True, clip_norm=None, group_size=None)


@cache
def program(fsdp, stages, accumulation_steps, remat, clip_norm, group_size, platform):
    """The step as train.py binds it, compiled for eight CPU devices but with the layers that
    `platform` has; the state's shapes; their sharding."""
    model = MODEL.clone(depths=MODEL.depths[:stages], dims=MODEL.dims[:stages], remat=remat)
    tx = optimizer.adamw(optimizer.schedule(50, 10, peak_lr=4e-3, warmup_epochs=1),
                         num_steps=50, clip_norm=clip_norm)  # fmt: skip
    init = partial(classifiers.init, model=model, tx=tx, image_size=SIZE, ema_decays=(0.9999,))
    state = jax.eval_shape(init, jax.random.key(0))
    mesh = sharding.make_mesh(fsdp=fsdp)
    by_batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    state_sharding = sharding.state_sharding(state, mesh)
    how = dict(group_size=group_size) if group_size else dict(mixup_alpha=0.0, cutmix_alpha=0.0)
    step = jax.jit(
        partial(classifiers.train_step, model=model, tx=tx,
                normalize=partial(steps.normalize, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
                erase=erasing.erase if group_size else (lambda key, images: images),
                mix=partial(mixup.mix, num_classes=7, mesh=mesh, **how),
                key=jax.random.key(1), ema_decays=(0.9999,),
                accumulation_steps=accumulation_steps, gathered=replicated),
        in_shardings=(state_sharding, by_batch),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )  # fmt: skip
    batch = {
        "image": jax.ShapeDtypeStruct((ROWS, SIZE, SIZE, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
    }
    with outline.compiling_for(platform):
        compiled = step.lower(state, batch).compile()
    return compiled, state, state_sharding


def moved(compiled):
    return collectives.read(compiled.as_text())


def arrays(found, kinds):
    return [array for one in found if one.kind in kinds for array in one.results]


def is_of_examples(array):
    return array.size % 5 == 0


def nbytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_on_a_device(tree, shardings):
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))


def split_shapes(tree, shardings):
    """Shapes of the leaves that are split over devices."""
    return Counter(
        leaf.shape
        for leaf, of_leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
        if not of_leaf.is_fully_replicated
    )


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize("options, platform", [(MIXED, "cpu"), (IN_PARTS, "tpu")])
def test_data_parallel_devices_exchange_gradients_and_scalars_alone(options, platform):
    compiled, state, _ = program(1, **options, platform=platform)
    assert not any(is_of_examples(leaf) for leaf in jax.tree.leaves(state.params))
    found = moved(compiled)
    assert {one.kind for one in found} == {"all-reduce"}
    assert {one.group_size for one in found} == {8}
    reduced = arrays(found, REDUCTIONS)
    assert not any(map(is_of_examples, reduced))
    gradients = [array for array in reduced if array.size > 1]
    assert sum(array.bytes for array in gradients) == pytest.approx(nbytes(state.params), rel=0.05)
    # Those of a part of the batch, after it.
    times = {one.times for one in found if any(array.size > 1 for array in one.results)}
    assert times == {options["accumulation_steps"]}


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize("fsdp, platform", [(1, "cpu"), (8, "tpu")])
def test_of_groups_across_devices_each_sends_its_images_once_and_no_activation(fsdp, platform):
    compiled, _, _ = program(fsdp, **ACROSS, platform=platform)
    found = [one for one in moved(compiled) if any(map(is_of_examples, one.results))]
    assert {(one.kind, one.times) for one in found} == {("collective-permute", 1)}
    exchanged = Counter((array.dtype, array.size) for array in arrays(found, collectives.KINDS))
    images, targets = ("f32", 10 * SIZE * SIZE * 3), ("f32", 10 * 7)
    assert exchanged == {images: 1, targets: 1}


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize("fsdp, options", [(8, MIXED), (4, IN_PARTS)])
def test_fsdp_gathers_each_parameter_once_and_nothing_of_an_example(fsdp, options):
    compiled, state, state_sharding = program(fsdp, **options, platform="tpu")
    found = moved(compiled)
    assert {one.kind for one in found} <= {"all-gather", *REDUCTIONS}
    assert not any(map(is_of_examples, arrays(found, collectives.KINDS)))
    gathers = [one for one in found if one.kind == "all-gather"]
    assert {(one.group_size, one.times) for one in gathers} == {(fsdp, 1)}
    gathered = Counter(array.shape for array in arrays(gathers, collectives.KINDS))
    assert gathered == split_shapes(state.params, state_sharding.params)
    gradients = [array for array in arrays(found, REDUCTIONS) if array.size > 1]
    assert sum(array.bytes for array in gradients) == pytest.approx(nbytes(state.params), rel=0.05)


@pytest.mark.usefixtures("uniform_lambda")
@pytest.mark.parametrize(
    "fsdp, options, platform",
    [(1, MIXED, "cpu"), (8, MIXED, "tpu"), (1, IN_PARTS, "tpu"), (4, IN_PARTS, "tpu")],
)
def test_the_new_state_takes_the_place_of_the_old_one(fsdp, options, platform):
    compiled, state, state_sharding = program(fsdp, **options, platform=platform)
    donated = compiled.memory_analysis().alias_size_in_bytes
    assert donated == bytes_on_a_device(state, state_sharding)


@pytest.mark.parametrize(
    "group_size, mode, exchanges",
    [(2, "batch", False), (4, "batch", False), (4, "pair", False), (4, "elem", False),
     (8, "batch", True), (64, "batch", True)],
)  # fmt: skip
def test_eight_devices_mix_as_one_and_exchange_rows_only_where_they_must(
    group_size, mode, exchanges, request
):
    if mode != "elem":  # there with the sampler itself
        request.getfixturevalue("uniform_lambda")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(32, 6, 6, 3)).astype(np.float32)
    labels = rng.integers(0, 5, 32)
    mesh = sharding.make_mesh()
    by_batch = sharding.batch_sharding(mesh)

    def mix(images, labels):
        return mixup.mix(
            jax.random.key(7), images, labels, num_classes=5, group_size=group_size, mode=mode,
            mesh=mesh,
        )  # fmt: skip

    jitted = jax.jit(mix, in_shardings=(by_batch, by_batch), out_shardings=by_batch)
    on_eight = jitted.lower(images, labels).compile()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        on_eight(*jax.device_put((images, labels), by_batch)), jax.jit(mix)(images, labels),
    )  # fmt: skip
    assert bool(moved(on_eight)) == exchanges


def test_a_state_is_born_split():
    tx = optimizer.adamw(lambda step: 1e-3)
    model = MODEL.clone(depths=(1,), dims=(128,))
    init = partial(classifiers.init, model=model, tx=tx, image_size=SIZE, ema_decays=(0.9999,))
    abstract = jax.eval_shape(init, jax.random.key(0))
    state_sharding = sharding.state_sharding(abstract, sharding.make_mesh(fsdp=8))
    compiled = jax.jit(init, out_shardings=state_sharding).lower(jax.random.key(0)).compile()
    expected = bytes_on_a_device(abstract, state_sharding)
    assert expected == pytest.approx(nbytes(abstract) / 8, rel=0.02)
    # Beside the state there are the pointers to its leaves.
    pointers = 8 * len(jax.tree.leaves(abstract))
    plan = compiled.memory_analysis()
    assert plan.output_size_in_bytes - expected in (0, pointers)
    # Nor is it whole before it is split: not the parameters, of which the averages are copies.
    assert plan.temp_size_in_bytes < nbytes(abstract.params) / 2
    for leaf, of_leaf in zip(*map(jax.tree.leaves, (compiled(jax.random.key(0)), state_sharding)),
                             strict=True):  # fmt: skip
        shapes = {shard.data.shape for shard in leaf.addressable_shards}
        assert shapes == {of_leaf.shard_shape(leaf.shape)}


HLO = """HloModule jit_f, entry_computation_layout={()->f32[]}, num_partitions=8

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = (f32[4]{0}, /*index=1*/pred[]) all-reduce(%x, %y), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add, metadata={op_name="jit(f)/while/body/transpose(jvp(f))/dot"}
}

%inner (p: f32[4]) -> f32[4] {
  ROOT %b = bf16[2,3]{1,0:T(8,128)(2,1)S(1)} reduce-scatter(%x), channel_id=2, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, to_apply=%add
}

%endless (p: f32[4]) -> f32[4] {
  ROOT %c = f32[4]{0} call(%x), to_apply=%inner
}

%piece (p: f32[2]) -> f32[16] {
  %d = f32[16]{0} all-gather(%p), channel_id=3, replica_groups={}, dimensions={0}
}

%other_piece (p: f32[2]) -> f32[16] {
  %e = f32[16]{0} all-gather(%p), channel_id=3, replica_groups={}, dimensions={0}
}

%wrapped (p: f32[2]) -> f32[2,8] {
  ROOT %s = f32[2,8]{1,0} all-gather(%p), channel_id=10, replica_groups={}, dimensions={0}
}

%never (p: f32[2]) -> f32[16] {
  %f = f32[16]{0} all-gather(%p), channel_id=4, replica_groups={}, dimensions={0}
}

ENTRY %main (p: f32[4]) -> f32[] {
  %g = (s32[], f32[4]{0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  %h = f32[4]{0} while(%t), condition=%condition, body=%endless
  %i = f32[16]{0} fusion(%p), kind=kCustom, calls=%piece
  %j = f32[16]{0} fusion(%p), kind=kCustom, calls=%other_piece
  %k = (f32[4]{0}, f32[8]{0}, u32[], u32[]) all-gather-start(%p), channel_id=5, replica_groups=mesh['x'=2,'y'=2,'z'=2], device_ids=([2,4]T(1,0)) {'y'}, dimensions={0}
  %l = f32[8]{0} all-gather-done(%k)
  %m = ((f32[4]{0}, s8[2]{0}), (f32[8]{0}, s8[4]{0})) all-gather-start(%p, %q), replica_groups=mesh['x'=8] {'x':(2)4}, dimensions={0}
  %n = (f32[4]{0}, f32[2]{0}) all-reduce-start(%p, %q), channel_id=6, replica_groups=mesh['x'=2,'y'=4] {'x','y'}, to_apply=%add
  %o = (f32[1,2]{1,0}, f32[1,2]{1,0}) all-to-all(%p, %q), channel_id=7, replica_groups={{0,1}}
  %q = u8[5]{0} collective-permute(%p), channel_id=8, source_target_pairs={{0,1},{1,2},{2,0}}
  %t = ((f32[2]{0}), f32[2,8]{1,0}, u32[]) async-start(%p), calls=%wrapped
  %u = f32[2,8]{1,0} async-done(%t), calls=%wrapped
  ROOT %r = f32[] all-reduce(%p), channel_id=9, replica_groups={{0},{1},{2},{3}}, to_apply=%add
}
"""  # noqa: E501


def test_the_reader_knows_each_notation_and_how_often_a_collective_runs():
    f32 = partial(Array, "f32")
    all_gather, all_reduce = partial(Collective, "all-gather"), partial(Collective, "all-reduce")
    expected = [
        all_reduce((f32((4,)), Array("pred", ())), 2, "jit(f)/while/body/transpose(jvp(f))/dot", 3),
        Collective("reduce-scatter", (Array("bf16", (2, 3)),), 4, "", None),
        all_gather((f32((16,)),), 8, "", 1),
        all_gather((f32((2, 8)),), 8, "", 1),
        all_gather((f32((8,)),), 2, "", 1),
        all_gather((f32((8,)), Array("s8", (4,))), 4, "", 1),
        all_reduce((f32((4,)), f32((2,))), 8, "", 1),
        Collective("all-to-all", (f32((1, 2)),) * 2, 2, "", 1),
        Collective("collective-permute", (Array("u8", (5,)),), 3, "", 1),
    ]
    assert collectives.read(HLO) == expected
    assert collectives.read(HLO, unknown=7)[1].times == 7
    assert [one.bytes for one in expected] == [17, 12, 64, 64, 32, 36, 24, 16, 5]
    assert [one.sent for one in expected] == [17, 36, 56, 56, 16, 27, 42, 8, 5]

"""The kernels for NVIDIA GPUs, by a C++ compiler on the CPU, and the programs that call them."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.errors import InputError
from convnext.kernels import depthwise, depthwise_ptx, outline, ptx
from convnext.models.convnext import Block, ConvNeXt
from dev import build_ptx
from tests.helpers import emulation
from tests.helpers.depthwise import reference

# Strips of each width, several for a thread, and maps without whole ones; maps below the kernel's
# size; channels that do not fill a warp, that fill several blocks, and not quite the last one, that
# threads load for one another, do not, and do in float32 alone.
SHAPES = [(2, 14, 14, 96), (1, 7, 7, 6), (3, 9, 16, 64), (1, 29, 12, 40), (1, 9, 38, 48),
          (2, 1, 1, 2), (1, 3, 30, 131), (2, 2, 5, 256), (2, 9, 38, 7), (1, 5, 9, 136),
          (1, 11, 16, 68)]  # fmt: skip
SANITIZERS = ["-g", "-fsanitize=address,undefined"]


@pytest.fixture
def emulated(monkeypatch, tmp_path):
    return partial(emulation.emulate, monkeypatch, tmp_path)


def check(shape, map_dtype, branch_dtype):
    rng = np.random.default_rng(0)
    x, addend = (rng.normal(size=shape).astype(map_dtype) for _ in range(2))
    g = rng.normal(size=shape).astype(branch_dtype)
    kernel = rng.normal(size=(7, 7, 1, shape[-1])).astype(branch_dtype)
    y, dx, dkernel = reference(x, kernel, g)
    exact = {"float32": 1e-6, "bfloat16": 4e-3}  # of the largest: half a bit of bfloat16 is 2e-3

    def near(ours, wanted, dtype):
        assert ours.dtype == dtype and ours.shape == wanted.shape
        error = np.abs(np.asarray(ours, np.float64) - wanted).max() / np.abs(wanted).max()
        assert error < exact[dtype]

    bias = rng.normal(size=shape[-1]).astype(np.float32)
    near(depthwise_ptx.forward(x, kernel), y, branch_dtype)
    near(depthwise_ptx.forward(x, kernel, bias), y + bias, branch_dtype)
    rounded = bias.astype("bfloat16")  # of a model whose parameters were cast
    near(depthwise_ptx.forward(x, kernel, rounded), y + rounded.astype(float), branch_dtype)
    near(depthwise_ptx.input_gradient(g, kernel), dx, branch_dtype)
    near(depthwise_ptx.input_gradient(g, kernel, addend), dx + addend, map_dtype)
    sums = np.asarray(depthwise_ptx.sums(x, g)).astype(np.float64).sum(axis=0)
    near(sums[:49].reshape(kernel.shape).astype(np.float32), dkernel, "float32")
    near(sums[49].astype(np.float32), g.astype(np.float64).sum(axis=(0, 1, 2)), "float32")
    gradient = depthwise_ptx.kernel_gradient(*map(jnp.asarray, (x, kernel, g)))
    near(gradient, dkernel, branch_dtype)


@pytest.mark.slow
@emulation.needs_compiler
@pytest.mark.parametrize(
    "shape, dtypes",
    [((1, 9, 38, 48), ("float32", "bfloat16")), ((2, 14, 14, 96), ("bfloat16", "bfloat16")),
     ((1, 9, 11, 12), ("float32", "bfloat16"))],
)  # fmt: skip
def test_the_kernels_compute_the_definition(emulated, shape, dtypes):
    emulated()
    check(shape, *dtypes)
    if dtypes[0] == dtypes[1]:
        depthwise_ptx.probe()


@emulation.needs_compiler
@pytest.mark.slow
def test_all_kernels_compute_the_definition_on_maps_of_all_kinds_within_their_memory(emulated):
    for dtypes in ptx.DTYPES:
        emulated(*SANITIZERS if dtypes[0] != dtypes[1] else ())
        for shape in SHAPES:
            check(shape, *dtypes)


@pytest.mark.slow
@emulation.needs_compiler
@pytest.mark.parametrize("lowered_for", ["cuda", "cpu"])
@pytest.mark.parametrize("dtypes", ptx.DTYPES)
def test_a_convolution_beside_a_shortcut(emulated, monkeypatch, dtypes, lowered_for):
    """Where it was traced for a GPU and runs elsewhere, XLA's takes the place of the kernels."""
    map_dtype, branch_dtype = dtypes
    if lowered_for == "cuda":
        emulated()
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *x, default, cuda=None: (cuda or default)(*x)
        )
    rng = np.random.default_rng(0)
    x, g, shortcut = (rng.normal(size=(2, 9, 8, 8)) for _ in range(3))
    x = x.astype(branch_dtype).astype(map_dtype)  # the branch takes it in its dtype
    shortcut, g = shortcut.astype(map_dtype), g.astype(branch_dtype)
    kernel, bias = (rng.normal(size=size).astype(np.float32) for size in ((7, 7, 1, 8), 8))
    kernel = kernel.astype(branch_dtype).astype(np.float32)
    exact, dx, dkernel = reference(x, kernel, g)
    exact, dx = exact + bias, dx + shortcut.astype(np.float64)
    dbias = g.astype(np.float64).sum(axis=(0, 1, 2))

    def convolved(x, kernel, bias):
        return depthwise.conv_and_shortcut(x, kernel, bias, branch_dtype)

    with outline.compiling_for("cuda"):
        (y, same), vjp = jax.vjp(convolved, x, kernel, bias)
        gradients = vjp((jnp.asarray(g), jnp.asarray(shortcut)))
    np.testing.assert_array_equal(same, x)
    assert y.dtype == branch_dtype and gradients[0].dtype == map_dtype
    assert gradients[1].dtype == gradients[2].dtype == "float32"
    rounded = 1e-6 if branch_dtype == "float32" else 1e-2
    in_float32 = 1e-6 if branch_dtype == "float32" or lowered_for == "cuda" else 1e-2
    near = (rounded, 1e-6 if map_dtype == "float32" and lowered_for == "cuda" else rounded)
    wanted = (exact, dx, dkernel, dbias)
    for found, exactly, error in zip(
        (y, *gradients), wanted, (*near, *2 * [in_float32]), strict=True
    ):
        assert np.abs(np.asarray(found, np.float64) - exactly).max() < error * np.abs(exactly).max()


X = jax.ShapeDtypeStruct((8, 14, 14, 64), jnp.bfloat16)
KERNEL = jax.ShapeDtypeStruct((7, 7, 1, 64), jnp.bfloat16)


def lowered(x, kernel, kernels="auto"):
    """The program of a GPU that is not there: value and gradients."""

    def value_and_gradients(x, kernel):
        y, vjp = jax.vjp(lambda x, k: depthwise.depthwise_conv(x, k, kernels), x, kernel)
        return y, *vjp(y)

    with outline.compiling_for("cuda"):
        traced = jax.jit(value_and_gradients).trace(x, kernel)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_grn", [False, True])
def test_a_block_on_a_gpu_takes_a_kernel_for_its_norm_and_for_the_shortcuts_gradient(
    dtype, use_grn
):
    block = Block(dim=64, dtype=dtype, use_grn=use_grn)
    x = jax.ShapeDtypeStruct((8, 14, 14, 64), jnp.float32)

    def gradients(params, x):
        y, vjp = jax.vjp(lambda params, x: block.apply({"params": params}, x), params, x)
        return vjp(y)

    with outline.compiling_for("cuda"):
        params = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
        program = jax.jit(gradients).trace(params, x).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(rf'custom_call @{re.escape(ptx.TARGET)}.*?name = "(\w+)"', program)
    assert sorted(calls) == [
        "depthwise_forward", "depthwise_input_gradient_plus", "depthwise_kernel_gradient",
        "standardize_gradient_2",
    ]  # fmt: skip
    assert "stablehlo.convolution" not in program


def test_a_gpu_takes_the_kernel_of_each_direction():
    program = lowered(X, KERNEL)
    calls = re.findall(rf'custom_call @{re.escape(ptx.TARGET)}.*?name = "(\w+)"', program)
    assert calls == [
        "depthwise_forward", "depthwise_input_gradient", "depthwise_kernel_gradient"
    ]  # fmt: skip
    assert "stablehlo.convolution" not in program
    assert "SIZE_" not in program and "mov.u32 %r" in program


@pytest.mark.parametrize(
    "x, kernel, kernels",
    [
        (X, KERNEL, "lax"),
        (X, jax.ShapeDtypeStruct((5, 5, 1, 64), jnp.bfloat16), "auto"),
        (X.update(dtype=jnp.float16), KERNEL.update(dtype=jnp.float16), "auto"),
    ],
)
def test_what_has_no_kernel_or_must_not_have_one_takes_xlas(x, kernel, kernels):
    program = lowered(x, kernel, kernels)
    assert ptx.TARGET not in program and program.count("stablehlo.convolution") == 3


def test_the_environment_can_do_without_them_and_a_mistake_is_named(monkeypatch):
    monkeypatch.setenv("CONVNEXT_KERNELS", "lax")
    assert ptx.TARGET not in lowered(X, KERNEL)
    monkeypatch.setenv("CONVNEXT_KERNELS", "cudnn")
    with pytest.raises(InputError, match="CONVNEXT_KERNELS is 'cudnn'; accepted: auto or lax"):
        lowered(X, KERNEL)
    monkeypatch.delenv("CONVNEXT_KERNELS")
    with pytest.raises(InputError, match="model.kernels is 'cudnn'; accepted: auto or lax"):
        ConvNeXt(depths=(1,), dims=(8,), kernels="cudnn").init(
            jax.random.key(0), jnp.zeros((1, 8, 8, 3))
        )


def test_without_them_small_maps_take_the_sum_for_the_kernels_gradient():
    """XLA's takes nine times as long on 7x7 maps."""
    assert depthwise.fastest("cuda", "kernel_gradient", 49, ("ptx",)) == "shifted_sum"
    assert depthwise.fastest("cuda", "kernel_gradient", 196, ("ptx",)) == "lax"
    assert {
        depthwise.fastest("cuda", direction, pixels)
        for direction in ("forward", "input_gradient", "kernel_gradient")
        for pixels in (49, 196, 784, 3136)
    } == {"ptx"}


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(ptx, "launch", lambda *arguments: jnp.ones(arguments[3].shape))
    with pytest.warns(UserWarning, match="a kernel computes something else"):
        assert not ptx.usable(lambda: depthwise_ptx.probe())


def test_a_gpu_that_refuses_them_is_named_once_and_takes_xlas(monkeypatch, recwarn):
    def refuse():
        raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    monkeypatch.setattr(ptx, "platform", lambda: "cuda")
    monkeypatch.setattr(depthwise_ptx, "probe", refuse)
    x, kernel = (jnp.zeros(each.shape, each.dtype) for each in (X, KERNEL))
    for _ in range(2):
        assert depthwise._without(x, kernel, "auto") == ("ptx",)
    (warning,) = recwarn
    assert "kernels of tests.kernels.test_depthwise_ptx do not run here" in str(warning.message)
    assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in str(warning.message)


@pytest.mark.parametrize("images, batch", [(1, 16), (2, 16), (1, 8)])
def test_each_device_computes_its_part_and_nothing_is_gathered(monkeypatch, images, batch):
    """A callback, into which XLA does not look either, takes the place of the kernel."""

    def launch(entry, text, operands, out, grid, block):
        return jax.pure_callback(lambda *_: np.zeros(out.shape, out.dtype), out, *operands)

    monkeypatch.setattr(ptx, "launch", launch)
    monkeypatch.setattr(depthwise_ptx, "images_of_a_row", lambda shape: images)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    replicated = jax.sharding.NamedSharding(mesh, jax.P())

    def all_directions(x, kernel):
        return (
            depthwise_ptx.forward(x, kernel),
            depthwise_ptx.input_gradient(x, kernel),
            depthwise_ptx.input_gradient(x, kernel, x),
            depthwise_ptx.sums(x, x).sum(axis=0),
        )

    program = jax.jit(
        all_directions,
        in_shardings=(rows, replicated),
        out_shardings=(rows, rows, rows, replicated),
    )
    x = jax.ShapeDtypeStruct((batch, 9, 9, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((7, 7, 1, 8), jnp.float32)
    text = program.lower(x, kernel).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    assert text.count(" all-reduce(") == 1
    of_one = batch // 8
    results = re.findall(r"f32\[([\d,]+)\]\S* custom-call.*callback", text)
    assert set(results) == {f"{of_one},9,9,8", f"{of_one // images},50,8"}

    # A device that had some rows alone would not see those beside them.
    rows = jax.sharding.NamedSharding(mesh, jax.P(None, "data"))
    program = jax.jit(all_directions, in_shardings=(rows, replicated))
    x = jax.ShapeDtypeStruct((batch, 16, 9, 8), jnp.float32)
    text = program.lower(x, kernel).compile().as_text()
    results = re.findall(r"f32\[([\d,]+)\]\S* custom-call.*callback", text)
    assert set(results) == {f"{batch},16,9,8", f"{batch // images},50,8"}


@pytest.mark.parametrize(
    "channels, block, narrow",
    [(96, (96, 1), (32, 4)), (128, (128, 1), (32, 4)), (384, (128, 1), (32, 4)),
     (40, (40, 3), (40, 3)), (352, (32, 4), (32, 4)), (131, (32, 4), (32, 4)),
     (2, (2, 64), (2, 64)), (88, (88, 1), (88, 1)), (136, (32, 4), (32, 4)),
     (132, (44, 2), (44, 2))],
)  # fmt: skip
def test_a_block_has_whole_warps_of_channels_where_it_can(channels, block, narrow):
    assert depthwise_ptx.block_of(channels) == block
    assert depthwise_ptx.block_of(channels, narrow=True) == narrow


def test_rows_of_the_kernels_gradient_fill_an_h100_and_are_whole_on_each_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    of = depthwise_ptx.images_of_a_row
    assert [of((256, 0, 0, c)) for c in (96, 192, 384, 768)] == [1, 2, 4, 8]
    monkeypatch.setattr(jax, "device_count", lambda: 64)
    assert of((256, 0, 0, 768)) == 4


def test_there_is_a_file_for_each_variant():
    committed = {path.name for path in ptx.FOLDER.glob("*.ptx.xz")}
    assert committed == {f"{name}.ptx.xz" for name, _, _ in build_ptx.variants()}


@pytest.mark.skipif(
    build_ptx.release() != build_ptx.RELEASE,
    reason=f"needs nvcc {build_ptx.RELEASE}, which wrote it",
)
@pytest.mark.slow
def test_what_is_committed_is_what_the_script_makes():
    for name, source, macros in build_ptx.variants():
        assert build_ptx.build(source, macros) == ptx.read(name)

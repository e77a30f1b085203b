import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from convnext.kernels import outline, pointwise
from convnext.kernels.depthwise import depthwise_conv

X, KERNEL = jnp.ones((1, 8, 8, 4)), jnp.ones((7, 7, 1, 4))


def sum_of_squares(x):
    return (x * x).sum(axis=-1)


def test_an_outlined_function_is_a_call_on_cpu_and_gives_the_same():
    outlined = outline.outline(sum_of_squares)
    program = jax.jit(lambda x: outlined(x + 1) * 2).lower(X).compile()
    assert re.search(r" call\(.*to_apply=", program.as_text())
    np.testing.assert_array_equal(program(X), sum_of_squares(X + 1) * 2)


def test_a_program_exported_for_a_gpu_has_the_grouped_convolution_and_no_calls():
    def gradients(x, kernel):
        x, vjp = jax.vjp(depthwise_conv, x, kernel)
        y, vjp_norm = jax.vjp(pointwise.layer_norm, x, jnp.ones(4), jnp.ones(4), 1e-6)
        return vjp(vjp_norm(y)[0])

    for platform, ours in (("cuda", False), ("cpu", True)):
        text = export.export(jax.jit(gradients), platforms=[platform])(X, KERNEL).mlir_module()
        assert ('inlineable = "false"' in text) == ours
        assert ("stablehlo.convolution" in text) == (not ours)


def test_what_is_compiled_for_another_platform_is_traced_for_it():
    assert outline.platform() == "cpu" and outline.on_cpu()
    with outline.compiling_for("tpu"):
        assert outline.platform() == "tpu" and not outline.on_cpu()
        jaxpr = str(jax.make_jaxpr(depthwise_conv)(X, KERNEL))
        assert "conv_general_dilated" in jaxpr and "custom_vjp" not in jaxpr
    assert outline.platform() == "cpu"
    assert "custom_vjp" in str(jax.make_jaxpr(depthwise_conv)(X, KERNEL))


def test_products_on_nvidia_gpus_are_the_librarys():
    with outline.compiling_for("tpu"):
        assert outline.compiler_options() == {}
    with outline.compiling_for("cuda"):
        assert outline.compiler_options() == {"xla_gpu_enable_triton_gemm": False}


@pytest.mark.parametrize(
    ("function", "by_default", "here"),
    [(lambda x: x @ x, True, False), (lambda x: x.sum(0), True, True)],
    ids=["product", "sum"],
)
def test_on_cpus_products_are_eigens_and_sums_the_librarys(function, by_default, here):
    lowered = jax.jit(function).lower(jnp.ones((512, 512)))
    for options, is_the_librarys in (({}, by_default), (outline.compiler_options(), here)):
        text = lowered.compile(compiler_options=options).as_text()
        assert ("__ynn_fusion" in text) == is_the_librarys


def test_an_option_that_this_jaxlib_does_not_have_is_left_out(monkeypatch):
    options = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_of_another_year": True}
    monkeypatch.setattr(outline, "FOR_CPU", options)
    assert outline.compiler_options() == {"xla_cpu_prefer_vector_width": 512}
    monkeypatch.setattr(outline, "FOR_CPU", {"xla_cpu_prefer_vector_width": "wide"})
    with pytest.raises(jax.errors.JaxRuntimeError):
        outline.compiler_options()

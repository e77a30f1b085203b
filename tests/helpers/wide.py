"""What a program of float32 would compute in float64."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from convnext.kernels.outline import compiling_for


def in_float64(function: Any, *args: Any) -> Any:
    """Traces the function with these float32 arguments, and computes the same operations in
    float64, sums and casts too. The plain formulas, not those of a CPU. A constant is the number
    that its float32 is short for."""
    with compiling_for("tpu"):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(args)]
    with jax.enable_x64(True):
        results = _run(closed, [_wide(leaf) for leaf in leaves])
        return jax.tree.unflatten(jax.tree.structure(shapes), results)


# Of GELU and its derivative; other constants are decimals.
ROOTS = (math.sqrt(2), math.sqrt(0.5), 2 / math.sqrt(math.pi), 1 / math.sqrt(2 * math.pi))
MEANT = {np.float32(root): root for root in ROOTS}


def _wide(value):
    value = jnp.asarray(value)
    return value.astype(jnp.float64) if value.dtype == jnp.float32 else value


def _meant(value):
    value = np.asarray(value)
    if value.dtype != np.float32 or value.size > 1:
        return _wide(value)
    number = np.float32(value.item())
    sign = float(np.sign(number))
    return jnp.full(value.shape, sign * MEANT.get(abs(number), float(str(abs(number)))))


def _run(closed, args):
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, map(_meant, closed.consts), strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return (
            _meant(np.asarray(atom.val, atom.aval.dtype))
            if isinstance(atom, Literal)
            else values[atom]
        )

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        inner = next((p for p in eqn.params.values() if isinstance(p, ClosedJaxpr)), None)
        if inner is not None:
            results = _run(inner, given)
        else:
            is_float32 = lambda p: isinstance(p, np.dtype | type) and p == np.float32  # noqa: E731
            params = {
                name: np.dtype(np.float64) if is_float32(p) else p for name, p in eqn.params.items()
            }
            results = eqn.primitive.bind(*given, **params)
            results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

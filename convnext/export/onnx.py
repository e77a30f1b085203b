"""The forward pass of a model as an ONNX graph, written out: opset 18, any batch and size.

LayerScale is folded into the second linear layer of a block. LayerNormalization is one node, whose
statistics are float32; GELU is spelled out, which runtimes fuse, since its own node is of opset 20.
"""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from flax.traverse_util import flatten_dict
from onnx import TensorProto, helper, numpy_helper

import convnext
from convnext.errors import InputError, needed, require
from convnext.export import checks
from convnext.models.convnext import Backbone, ConvNeXt, Trunk, smallest_side

Normalization = tuple[Sequence[float], Sequence[float]]  # mean and deviation of each channel
OPSET, IR_VERSION = 18, 9  # ReduceMean has its axes as an input from opset 18 on
INPUT = "pixel_values"
DTYPES = {"float32": np.float32, "float16": np.float16}
BATCH, HEIGHT, WIDTH = "batch_size", "height", "width"  # names of sizes that are free
# Fields that the graph follows, or that do not change what is computed in evaluation.
KNOWN = {
    "depths", "dims", "in_chans", "patch_size", "stem_norm", "use_grn", "layer_scale_init_value",
    "norm_eps", "num_classes", "final_norm_eps", "head_norm_first", "head_hidden_size",
    "out_features", "out_norms",
    "drop_path_rate", "remat", "dtype", "residual_dtype", "kernels", "train_precision",
    "head_init_scale", "parent", "name",
}  # fmt: skip


def model_proto(
    model: Trunk,
    params: Any,
    *,
    batch_size: int | None = None,
    image_size: int | None = None,
    dtype: str = "float32",
    normalize: Normalization | None = None,
    conv_mlp: bool = True,
) -> onnx.ModelProto:
    """Returns the graph from pixel_values, float32 [batch_size, C, height, width], to "logits"
    [batch_size, K]; of a model without a head to "last_hidden_state" and "pooler_output", of a
    Backbone to its maps, all float32.

    batch_size, image_size: None leaves them free. dtype "float16": of the weights and the
    computation, but for the statistics of norms and for GRN. normalize: for pixels from 0
    to 255; None: the pixels are normalised.

    conv_mlp: the linear layers of a block are convolutions of 1x1, with which onnxruntime takes
    less time on a CPU (docs/export.md); `quantized` wants them as matrix products.

    Raises InputError for a model with a field that the graph does not know, for sizes that the
    model does not take, and where onnx is too old.
    """
    unknown = {field.name for field in dataclasses.fields(model)} - KNOWN
    require(not unknown, "the fields of the model", sorted(unknown), "those that the graph has")
    require(dtype in DTYPES, "dtype", dtype, " or ".join(DTYPES))
    has_opset = onnx.defs.onnx_opset_version() >= OPSET
    require(has_opset, "onnx", onnx.__version__, f"1.13 or newer, which has opset {OPSET}")
    checks.check_sizes(model, batch_size, image_size)
    graph = _Graph(flatten_dict(jax.device_get(params), sep="/"), DTYPES[dtype], conv_mlp)
    outputs = graph.outputs(model, normalize)
    sides = (HEIGHT, WIDTH) if image_size is None else (image_size, image_size)
    batch = BATCH if batch_size is None else batch_size
    shape = (batch, model.in_chans, *sides)
    made = helper.make_graph(
        graph.nodes,
        "ConvNeXt",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, *rest))
            for name, rest in outputs.items()
        ],
        graph.initializers,
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="convnext-jax",
        producer_version=convnext.__version__,
    )


def difference(
    proto: onnx.ModelProto, model: Trunk, params: Any, normalize: Normalization | None = None
) -> float:
    """Runs the graph by onnxruntime beside the model, on noise of a size that it takes. Returns the
    largest difference of the outputs over their largest value. normalize: that of the graph.

    Raises InputError where onnxruntime is not installed.
    """
    onnxruntime = needed("onnxruntime", "the comparison")
    (given,) = proto.graph.input
    sizes = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    free = (2, model.in_chans, smallest_side(model) + 7, smallest_side(model) + 19)
    shape = [size or other for size, other in zip(sizes, free, strict=True)]
    images = given_images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if normalize is not None:
        mean, std = (np.float32(each).reshape(1, -1, 1, 1) for each in normalize)
        given_images = 255 * (images * std + mean)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {INPUT: given_images}),
            strict=True,
        )
    )
    method = "features" if "logits" not in found else "__call__"
    apply = jax.jit(lambda params, x: model.apply({"params": params}, x, method=method))
    expected = apply(params, images.transpose(0, 2, 3, 1))
    if not isinstance(expected, Mapping):
        expected = {"logits": expected}
    worst = 0.0
    for name, each in found.items():
        reference = np.asarray(expected[name], np.float32)
        if reference.ndim == 4:
            reference = reference.transpose(0, 3, 1, 2)
        worst = max(worst, checks.relative(each, reference))
    return worst


def quantized(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph with the weights of its linear layers in int8, which are multiplied by
    activations that are rounded as they come; convolutions stay as they are, since onnxruntime is
    three times as slow with them in int8. Raises InputError where onnxruntime is not installed."""
    quantization = needed("onnxruntime.quantization", "int8")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        # Without the shapes that this finds, it warns; its optimizations would be of this computer.
        quantization.quant_pre_process(
            proto, source, skip_optimization=True, skip_symbolic_shape=True
        )
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(target)


class _Graph:
    """Nodes and weights, as they are added. Maps are [N, C, H, W] between the blocks."""

    def __init__(self, state: Mapping[str, np.ndarray], dtype: type, conv_mlp: bool):
        self.state, self.dtype, self.conv_mlp = state, dtype, conv_mlp
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[Any, str] = {}

    def outputs(self, model: Trunk, normalize: Any) -> dict[str, tuple]:
        """Adds all nodes. Returns the names of the outputs, and their shapes without the batch."""
        x = INPUT
        if normalize is not None:
            mean, std = (255 * np.float32(each).reshape(1, -1, 1, 1) for each in normalize)
            x = self.add("Div", self.add("Sub", x, self.constant(mean, np.float32)),
                         self.constant(std, np.float32))  # fmt: skip
        x = self.cast(x, self.dtype)
        maps = self.maps(model, x)
        if isinstance(model, Backbone):
            return self.of_backbone(model, maps)
        if not isinstance(model, ConvNeXt):
            raise InputError(f"a {type(model).__name__}", "a ConvNeXt or a Backbone")
        return self.of_head(model, maps)

    def maps(self, model, x):
        """The maps of the stem and of each stage."""
        x = self.conv(x, "stem_conv", strides=[model.patch_size] * 2)
        if model.stem_norm:
            x = self.norm_of_map(x, "stem_norm", model.norm_eps)
        maps = [x]
        for stage, depth in enumerate(model.depths):
            if stage:
                x = self.norm_of_map(x, f"downsample_{stage}_norm", model.norm_eps)
                x = self.conv(x, f"downsample_{stage}_conv", strides=[2, 2])
            for block in range(depth):
                x = self.block(x, f"stage_{stage}_block_{block}", model)
            maps.append(x)
        return maps

    def block(self, x, name, model):
        dim = self.state[f"{name}/norm/scale"].size
        y = self.conv(x, f"{name}/dwconv", group=dim, pads=[3, 3, 3, 3])
        y = self.norm(self.add("Transpose", y, perm=[0, 2, 3, 1]), f"{name}/norm", model.norm_eps)
        linear = self.linear
        if self.conv_mlp:
            y, linear = self.add("Transpose", y, perm=[0, 3, 1, 2]), self.conv_1x1
        y = self.gelu(linear(y, f"{name}/pwconv1"))
        if model.use_grn:
            y = self.grn(y, f"{name}/grn")
        y = linear(y, f"{name}/pwconv2", self.state.get(f"{name}/gamma"))
        if not self.conv_mlp:
            y = self.add("Transpose", y, perm=[0, 3, 1, 2])
        return self.add("Add", x, y)

    def grn(self, x, name):
        """In float32, whose range the squares need."""
        gamma, beta = (self.state[f"{name}/{leaf}"] for leaf in ("gamma", "beta"))
        sides, channels = np.int64([1, 2]), np.int64([-1])
        if self.conv_mlp:
            gamma, beta = gamma[:, None, None], beta[:, None, None]
            sides, channels = np.int64([2, 3]), np.int64([1])
        x = self.cast(x, np.float32)
        norms = self.add("ReduceL2", x, self.constant(sides), keepdims=1)
        mean = self.add("ReduceMean", norms, self.constant(channels), keepdims=1)
        response = self.add("Div", norms, self.add("Add", mean, self.constant(np.float32(1e-6))))
        factor = self.add("Mul", response, self.constant(gamma, np.float32))
        factor = self.add("Add", factor, self.constant(np.float32(1)))
        x = self.add("Add", self.add("Mul", x, factor), self.constant(beta, np.float32))
        return self.cast(x, self.dtype)

    def of_backbone(self, model, maps):
        names = [name for name in model.map_names if name in model.channels]
        found = dict(zip(model.map_names, maps, strict=True))
        outputs = {}
        for name in names:
            x = found[name]
            if model.out_norms:
                x = self.norm_of_map(x, f"norm_{name}", model.norm_eps)
            outputs[name] = (model.channels[name], f"{name}_height", f"{name}_width")
            self.output(x, name)
        return outputs

    def of_head(self, model, maps):
        x, axes = maps[-1], self.constant(np.int64([2, 3]))
        if model.head_norm_first:
            x = self.norm_of_map(x, "norm_pre", model.final_norm_eps)
        x = self.add("ReduceMean", x, axes, keepdims=0)
        if not model.head_norm_first:
            x = self.norm(x, "norm", model.final_norm_eps)
        if model.head_hidden_size:
            x = self.gelu(self.gemm(x, "pre_logits"))
        if model.num_classes:
            self.output(self.gemm(x, "head"), "logits")
            return {"logits": (model.num_classes,)}
        self.output(maps[-1], "last_hidden_state")
        self.output(x, "pooler_output")
        width = model.head_hidden_size or model.dims[-1]
        map_shape = (model.dims[-1], "map_height", "map_width")
        return {"last_hidden_state": map_shape, "pooler_output": (width,)}

    def output(self, x, name):
        """Names a result, float32."""
        to = TensorProto.FLOAT
        kind, options = ("Identity", {}) if self.dtype is np.float32 else ("Cast", {"to": to})
        self.nodes.append(helper.make_node(kind, [x], [name], **options))

    def conv(self, x, name, **options):
        kernel = self.constant(self.state[f"{name}/kernel"].transpose(3, 2, 0, 1), self.dtype)
        bias = self.constant(self.state[f"{name}/bias"], self.dtype)
        return self.add("Conv", x, kernel, bias, **options)

    def linear(self, x, name, gamma=None):
        """gamma: a factor on the result, folded into the weights."""
        kernel, bias = self.folded(name, gamma)
        x = self.add("MatMul", x, self.constant(kernel, self.dtype))
        return self.add("Add", x, self.constant(bias, self.dtype))

    def conv_1x1(self, x, name, gamma=None):
        """The same of maps [N, C, H, W]."""
        kernel, bias = self.folded(name, gamma)
        kernel = kernel.T[:, :, None, None]
        return self.add(
            "Conv", x, self.constant(kernel, self.dtype), self.constant(bias, self.dtype)
        )

    def folded(self, name, gamma=None):
        """Kernel and bias of a linear layer, times gamma."""
        kernel, bias = (self.state[f"{name}/{leaf}"] for leaf in ("kernel", "bias"))
        return (kernel, bias) if gamma is None else (kernel * gamma, bias * gamma)

    def gemm(self, x, name):
        kernel, bias = self.folded(name)
        return self.add(
            "Gemm", x, self.constant(kernel, self.dtype), self.constant(bias, self.dtype)
        )

    def norm(self, x, name, eps):
        """Over the last axis."""
        scale, bias = (
            self.constant(self.state[f"{name}/{leaf}"], self.dtype) for leaf in ("scale", "bias")
        )
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def norm_of_map(self, x, name, eps):
        x = self.norm(self.add("Transpose", x, perm=[0, 2, 3, 1]), name, eps)
        return self.add("Transpose", x, perm=[0, 3, 1, 2])

    def gelu(self, x):
        """x / 2 (1 + erf(x / sqrt 2)), in the order that runtimes look for."""
        half, one, root = (self.constant(self.dtype(each)) for each in (0.5, 1, math.sqrt(2)))
        erf = self.add("Erf", self.add("Div", x, root))
        return self.add("Mul", self.add("Mul", x, self.add("Add", erf, one)), half)

    def cast(self, x, dtype):
        if self.dtype is np.float32:
            return x
        return self.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def add(self, kind, *inputs, **attributes):
        """Adds a node. Returns the name of its result."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value, dtype=None):
        """Adds a weight, or finds one with this value. Returns its name."""
        value = np.ascontiguousarray(value, dtype)
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size < 8 else object()
        if key not in self._constants:
            name = self._constants[key] = f"weight_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(value, name))
        return self._constants[key]

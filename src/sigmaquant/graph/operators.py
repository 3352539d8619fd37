"""Which operators produce new values, which only pass values on, and which merge into the producer before them.

The table decides where activations are quantized, and lowering reads the same one: an operator that is in no set is
left in float and listed, never guessed.
"""

from __future__ import annotations

import torch
from torch import fx, nn

aten = torch.ops.aten

PASS_THROUGH = {
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "movedim",
    "swapaxes", "slice", "select", "narrow", "chunk", "split", "split_with_sizes", "unbind", "getitem",
    "unsqueeze", "squeeze", "expand", "expand_as", "repeat", "contiguous", "clone", "alias", "detach", "dropout",
    "feature_dropout", "alpha_dropout", "constant_pad_nd", "pad", "roll", "flip", "index_select", "gather", "index",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "upsample_nearest1d", "upsample_nearest2d", "unfold",
    "to", "_to_copy", "type_as", "lift_fresh_copy", "identity",
}  # fmt: skip
"""Values stay on their grid: these need no quantizer of their own (padding is with zero, which every grid holds)."""

FUSED_ACTIVATIONS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clip"}
"""Clipping merges into the requantization of the producer before it."""

PRODUCERS = {
    "add": "add", "sub": "add", "rsub": "add",
    "cat": "concatenation", "concat": "concatenation", "concatenate": "concatenation", "stack": "concatenation",
    "mul": "multiply", "div": "multiply", "neg": "multiply",
    "avg_pool1d": "pool", "avg_pool2d": "pool", "avg_pool3d": "pool", "adaptive_avg_pool1d": "pool",
    "adaptive_avg_pool2d": "pool", "adaptive_avg_pool3d": "pool", "mean": "pool", "sum": "pool",
    "relu": "activation", "relu6": "activation", "hardtanh": "activation", "clamp": "activation",
    "clamp_min": "activation", "clip": "activation",
    "gelu": "activation", "silu": "activation", "hardswish": "activation", "hardsigmoid": "activation",
    "sigmoid": "activation", "tanh": "activation", "leaky_relu": "activation", "elu": "activation",
    "mish": "activation", "softplus": "activation", "prelu": "activation", "selu": "activation",
    "softmax": "attention", "_softmax": "attention", "scaled_dot_product_attention": "attention",
    "matmul": "attention", "bmm": "attention", "mm": "attention", "baddbmm": "attention", "einsum": "attention",
    "layer_norm": "norm", "native_layer_norm": "norm", "group_norm": "norm", "batch_norm": "norm", "rms_norm": "norm",
    "instance_norm": "norm", "linalg_vector_norm": "norm",
    "linear": "layer", "conv1d": "layer", "conv2d": "layer", "conv3d": "layer", "conv_transpose1d": "layer",
    "conv_transpose2d": "layer", "conv_transpose3d": "layer", "convolution": "layer", "addmm": "layer",
    "embedding": "layer", "lstm": "recurrent", "gru": "recurrent", "rnn_tanh": "recurrent", "rnn_relu": "recurrent",
    "upsample_bilinear2d": "pool", "pow": "multiply",
}  # fmt: skip
"""Operators that compute new values, with the kind that `ActivationSpec.producer` reports."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.Embedding,
)


def operator_name(node: fx.Node) -> str:
    """The operator without overload and in-place underscore (``"relu"``), or the class of the module that is called."""
    if node.op == "call_module":
        return type(called_module(node)).__name__
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._opname).removesuffix("_")
    return str(getattr(target, "__name__", target))


def called_module(node: fx.Node) -> nn.Module:
    """The module that a ``call_module`` node calls."""
    owner = node.graph.owning_module
    assert owner is not None, "a graph without a module has no submodules"
    return owner.get_submodule(str(node.target))


def producer_kind(node: fx.Node) -> str | None:
    """Kind of producer, or None where the node only passes values on or is unknown."""
    if node.op == "call_module":
        module = called_module(node)
        if isinstance(module, _LAYERS):
            return "layer"
        return "norm" if isinstance(module, _NORMS) else None
    if node.op != "call_function":
        return None
    return PRODUCERS.get(operator_name(node))


def is_float_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def example_shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of one example: all dimensions but the first; symbolic ones take their hint."""
    value = node.meta["val"]
    return tuple(int(size) for size in value.shape[1:])

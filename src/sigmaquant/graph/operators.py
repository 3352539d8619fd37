"""Which operators produce new values, which only pass values on, and which merge into the producer before them.

The table decides where activations are quantized, and lowering reads the same one: an operator that is in no set is
left in float and listed, never guessed.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from sigmaquant.graph.nodes import arguments, operator, writes

PASS_THROUGH = {
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "amax", "amin", "max", "min",
    "view", "view_as", "_unsafe_view", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "permute",
    "transpose", "t", "numpy_T", "mT", "movedim", "moveaxis", "swapaxes", "swapdims", "slice", "select", "narrow",
    "chunk", "split", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk", "unbind", "getitem",
    "unsqueeze", "squeeze", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "contiguous", "clone",
    "alias", "detach", "dropout", "feature_dropout", "alpha_dropout", "constant_pad_nd", "pad", "masked_fill",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "roll", "flip", "rot90", "tril", "triu", "diagonal", "index_select", "gather", "index",
    "take_along_dim", "sort", "topk", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "im2col",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "to", "_to_copy", "type_as", "float",
    "lift_fresh_copy", "identity",
}  # fmt: skip
"""Values stay on their grid: these need no quantizer of their own. Ask `passes_on`, which also looks at operands."""

FUSED_ACTIVATIONS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clip"}
"""Clipping merges into the requantization of the producer before it."""

PRODUCERS = {
    "add": "add", "sub": "add", "rsub": "add",
    "cat": "concatenation", "concat": "concatenation", "concatenate": "concatenation", "stack": "concatenation",
    "mul": "multiply", "div": "multiply", "neg": "multiply",
    "hstack": "concatenation", "vstack": "concatenation", "maximum": "maximum", "minimum": "maximum",
    "avg_pool1d": "pool", "avg_pool2d": "pool", "avg_pool3d": "pool", "adaptive_avg_pool1d": "pool",
    "adaptive_avg_pool2d": "pool", "adaptive_avg_pool3d": "pool", "mean": "pool", "sum": "pool",
    "relu": "activation", "relu6": "activation", "hardtanh": "activation", "clamp": "activation",
    "clamp_min": "activation", "clip": "activation",
    "gelu": "activation", "silu": "activation", "hardswish": "activation", "hardsigmoid": "activation",
    "sigmoid": "activation", "tanh": "activation", "leaky_relu": "activation", "elu": "activation",
    "mish": "activation", "softplus": "activation", "prelu": "activation", "selu": "activation",
    "celu": "activation", "rrelu": "activation", "hardshrink": "activation", "softsign": "activation",
    "log_sigmoid": "activation", "glu": "activation",
    "softmax": "attention", "_softmax": "attention", "scaled_dot_product_attention": "attention",
    "matmul": "attention", "bmm": "attention", "mm": "attention", "baddbmm": "attention", "einsum": "attention",
    "layer_norm": "norm", "native_layer_norm": "norm", "group_norm": "norm", "batch_norm": "norm", "rms_norm": "norm",
    "instance_norm": "norm", "linalg_vector_norm": "norm",
    "linear": "layer", "conv1d": "layer", "conv2d": "layer", "conv3d": "layer", "conv_transpose1d": "layer",
    "conv_transpose2d": "layer", "conv_transpose3d": "layer", "convolution": "layer", "addmm": "layer",
    "embedding": "layer", "embedding_bag": "layer", "bilinear": "layer",
    "lstm": "recurrent", "gru": "recurrent", "rnn_tanh": "recurrent", "rnn_relu": "recurrent",
    "lstm_cell": "recurrent", "gru_cell": "recurrent", "rnn_tanh_cell": "recurrent", "rnn_relu_cell": "recurrent",
    "upsample_linear1d": "pool", "upsample_bilinear2d": "pool", "upsample_trilinear3d": "pool",
    "upsample_bicubic2d": "pool", "_upsample_bilinear2d_aa": "pool", "_upsample_bicubic2d_aa": "pool",
    "pow": "multiply", "square": "multiply",
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
    return operator(node).removesuffix("_")


def called_module(node: fx.Node) -> nn.Module:
    """The module that a ``call_module`` node calls."""
    owner = node.graph.owning_module
    assert owner is not None, "a graph without a module has no submodules"
    return owner.get_submodule(str(node.target))


def producer_kind(node: fx.Node) -> str | None:
    """Kind of producer, or None where the node only passes values on or is unknown.

    Of an operator with several results (``lstm``), each result that is picked out is a producer.
    """
    if node.op == "call_module":
        module = called_module(node)
        if isinstance(module, _LAYERS):
            return "layer"
        return "norm" if isinstance(module, _NORMS) else None
    if node.op != "call_function" or writes(node):  # what is still in place may write into what others read
        return None
    return PRODUCERS.get(operator_name(picked_from(node)))


def picked_from(node: fx.Node) -> fx.Node:
    """The operator with several results from which the node picks one; the node itself where it picks none."""
    if operator_name(node) == "getitem" and isinstance(node.args[0], fx.Node):
        return node.args[0]
    return node


def passes_on(node: fx.Node) -> bool:
    """Whether the node's values are those of its first operand: moved, cut, repeated, selected, or zeros."""
    if node.op != "call_function" or operator_name(node) not in PASS_THROUGH:
        return False
    source, bound = picked_from(node), arguments(node)
    if source is not node:
        return passes_on(source)
    if operator_name(node) in ("max", "min"):  # of two tensors, or along a dimension
        return "other" not in bound
    return bound.get("value") in (None, 0)  # what is filled in must be on every grid


def is_float_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()

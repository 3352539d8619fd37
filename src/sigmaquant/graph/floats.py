"""The parameters that stay in float, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import arguments, operator, tensor_value
from sigmaquant.graph.parameters import ParameterFlow
from sigmaquant.graph.specs import FloatParameter, LayerSpec
from sigmaquant.operators.meaning import known_in_float
from sigmaquant.operators.norm import is_norm
from sigmaquant.operators.products import products


def float_parameters(
    model: nn.Module,
    layers: tuple[LayerSpec, ...],
    raised: Mapping[str, nn.Module],
    flows: Mapping[fx.Node, ParameterFlow],
    tensors: Mapping[str, Tensor],
) -> tuple[FloatParameter, ...]:
    """Every parameter of the model that is no layer's weight; a tied one is listed once.

    Args:
        model: the user's model.
        layers: result of the inventory.
        raised: the raised modules by name.
        flows: where each parameter's ``get_attr`` node goes.
        tensors: parameter or buffer behind each ``get_attr`` target.
    """
    weights = {id(model.get_parameter(spec.parameter)) for spec in layers}
    absorbed = {spec.batch_norm for spec in layers}
    reasons: dict[int, tuple[str, bool]] = {}
    for name, module in raised.items():
        for parameter in module.parameters(recurse=False):
            reasons.setdefault(id(parameter), _module_reason(module, name in absorbed))
    for source, flow in flows.items():
        reasons.setdefault(id(tensors[str(source.target)]), (_flow_reason(flow), False))
    found = []
    for name, parameter in model.named_parameters():
        if id(parameter) not in weights:
            reason, vanishes = reasons.get(id(parameter), ("not used by the forward pass", False))
            found.append(FloatParameter(name, tuple(parameter.shape), parameter.numel(), reason, vanishes))
    return tuple(found)


def _module_reason(module: nn.Module, absorbed: bool) -> tuple[str, bool]:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        if absorbed:
            return "BatchNorm, absorbed into the layer before it", True
        return "BatchNorm, not absorbed: it follows no layer directly", False
    if is_norm(module):
        return type(module).__name__.rstrip("123d"), False
    return "bias", False


def _flow_reason(flow: ParameterFlow) -> str:
    """Why a parameter that is used directly is not a layer."""
    if any(use.computed for use in flow.weights):
        return "a weight is computed from it in every inference"
    if flow.weights:
        return "a vector, or no axis of it can carry scales"
    reasons = [_use_reason(user, arrival) for user, arrival in flow.others]
    return "; ".join(dict.fromkeys(reasons)) or "its value does not reach the output"


def _use_reason(user: fx.Node, arrival: fx.Node) -> str:
    name, known = operator(user), known_in_float(user)
    if any(arrival in product.bias for product in products(user)):
        return "bias"
    if known.producer == "norm":
        return f"the scale or offset of {name}"
    if user.op == "output":
        return "returned by the model"
    if user.op == "call_module" or any(arrival in product.sources for product in products(user)):
        return "the input of a layer or product (a learned query), not its weight"
    if arguments(user).get("attn_mask") is arrival:
        return "added to the scores of an attention, not multiplied"
    if known.producer in ("add", "concatenation"):
        return "added or concatenated (a token, position embedding or offset), not multiplied"
    if known.producer == "multiply":
        return "multiplied element by element (a scale), not summed over"
    if known.carries and any(_is_integer(operand) for operand in user.all_input_nodes):
        return "a lookup table read by indices"
    if arguments(user).get("weight") is arrival:
        return f"the weight of {name}, which is not quantized"
    return f"used by {name or user.op}"


def _is_integer(node: fx.Node) -> bool:
    value = tensor_value(node)
    return value is not None and not value.is_floating_point()

"""What a plan costs: the protocol of all cost models, and what needs no device: bytes and bit operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from sigmaquant.budget import Cost, SizeCounts
from sigmaquant.graph.specs import LayerSpec, QuantGraph
from sigmaquant.plan import BitwidthPlan

FLOAT_BITS = 32
_FLOAT_BYTES = 4  # of a scale, a bias or a parameter that is not quantized
_ACTIVATION_BYTES = 4 + 1  # scale and zero-point


class CostModel(Protocol):
    """Costs of one network on one piece of hardware."""

    name: str
    midrise_up_to: int
    """What suits the hardware where the user does not say, see `BitwidthPlan.midrise_up_to`."""
    reserve: Mapping[str, float]
    """Share of a limit that a search leaves free: training changes the codes, and with them what depends on digits."""

    def cost(self, plan: BitwidthPlan, codes: Mapping[str, Tensor] | None = None) -> Cost:
        """What the whole network costs under a plan; `codes`: its integer weights by layer name, if it has any."""

    def reference(self) -> Cost:
        """What the float32 network costs; reductions such as ``"8x"`` divide it."""

    def layer(self, name: str, bits: int, plan: BitwidthPlan, size_counts: SizeCounts) -> Mapping[str, float]:
        """What one layer's weight adds at a bitwidth to each resource that depends on it; activations as in `plan`."""


class IdealCosts:
    """Bytes and bit operations, as if every bit saved were saved on the device.

    Args:
        graph: the network.

    Example:
        >>> from sigmaquant.graph.specs import LayerSpec, QuantGraph
        >>> layer = LayerSpec("fc", "linear", "fc.weight", (10, 64), 0, 1, False, 640, (64,), (10,))
        >>> costs = IdealCosts(QuantGraph(None, (layer,)))
        >>> costs.cost(BitwidthPlan({"fc": 3})).weight_bytes, costs.reference().weight_bytes
        (240, 2560)
    """

    name = "ideal"

    def __init__(self, graph: QuantGraph) -> None:
        self._graph = graph
        absorbed_biases = sum(output_channels(s) for s in graph.layers if s.batch_norm and not s.has_bias)
        kept = sum(p.elements for p in graph.float_parameters if not p.absorbed)
        self._other_bytes = _FLOAT_BYTES * (absorbed_biases + kept) + constant_bytes(graph)
        # a BatchNorm that is absorbed gives every output channel its own factor
        scales = sum(output_channels(spec) if spec.batch_norm else spec.channels for spec in graph.layers)
        self._scale_bytes = _FLOAT_BYTES * scales + _ACTIVATION_BYTES * len(graph.activations)

    def cost(self, plan: BitwidthPlan) -> Cost:
        """Bytes and bit operations under a plan."""
        layers = self._graph.layers
        return Cost(
            weight_bytes=sum(packed_bytes(spec.elements, plan.weights[spec.name]) for spec in layers),
            scale_bytes=self._scale_bytes,
            other_bytes=self._other_bytes,
            bops=self._weightless_bops(plan)
            + sum(spec.macs * plan.weights[spec.name] * input_bits(spec, plan) for spec in layers),
            macs=self._macs,
        )

    def reference(self) -> Cost:
        """The float32 network: 4 bytes a weight, 32 x 32 bit operations a MAC."""
        layers = self._graph.layers
        return Cost(
            weight_bytes=FLOAT_BITS // 8 * sum(spec.elements for spec in layers),
            scale_bytes=0,
            other_bytes=self._other_bytes,
            bops=float(self._macs * FLOAT_BITS**2),
            macs=self._macs,
        )

    def layer(self, name: str, bits: int, plan: BitwidthPlan, size_counts: SizeCounts) -> Mapping[str, float]:
        """``size_bytes`` (packed codes) and ``bops`` of one layer; scales and biases do not depend on its bitwidth."""
        spec = self._graph.layer[name]
        return {
            "size_bytes": float(packed_bytes(spec.elements, bits)),
            "bops": float(spec.macs * bits * input_bits(spec, plan)),
        }

    @property
    def _macs(self) -> int:
        graph = self._graph
        return graph.weightless_macs + graph.float_macs + sum(spec.macs for spec in graph.layers)

    def _weightless_bops(self, plan: BitwidthPlan) -> float:
        widest = max(plan.activations.values(), default=FLOAT_BITS)
        return float(self._graph.weightless_macs * widest**2 + self._graph.float_macs * FLOAT_BITS**2)


def output_channels(spec: LayerSpec) -> int:
    """Output channels of a layer; a grouped transposed convolution has one scale for the like channels of all groups.

    Example:
        >>> output_channels(LayerSpec("up", "conv_transpose2d", "up.weight", (8, 3, 2, 2), 1, 4, False, 0, (), ()))
        12
    """
    return spec.channels * (spec.groups if "transpose" in spec.kind else 1)


def constant_bytes(graph: QuantGraph) -> int:
    """Bytes of the tensors that the graph reads and that are no parameters: buffers such as position encodings."""
    constants = {}
    for node in graph.module.graph.nodes if graph.module is not None else ():
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(graph.module.get_submodule(owner), name)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                constants[str(node.target)] = value.numel() * value.element_size()
    return sum(constants.values())


def packed_bytes(elements: int, bits: int) -> int:
    """Bytes of packed codes, rounded up for each layer.

    Example:
        >>> packed_bytes(9, 3)
        4
    """
    return (elements * bits + 7) // 8


def input_bits(spec: LayerSpec, plan: BitwidthPlan) -> int:
    """Bitwidth of what feeds a layer: the widest of its inputs, 32 where one stays in float."""
    return max((plan.activations[name] for name in spec.inputs), default=FLOAT_BITS)

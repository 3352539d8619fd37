"""What the graph knows of each quantizable weight, each quantized activation and each parameter left in float."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, fx, nn


@dataclass(frozen=True)
class LayerSpec:
    """One quantizable weight tensor. Shapes are those of one example: without the batch dimension.

    Attributes:
        name: the user's own module name (``"layer1.0.conv1"``); for a weight that belongs to no convolution, linear or
            embedding module, the parameter's name (``"attention.in_proj_weight"``).
        kind: ``conv1d | conv2d | conv3d | conv_transpose1d | conv_transpose2d | conv_transpose3d | linear | embedding |
            recurrent | parameter``.
        parameter: full name of the weight in the user's ``state_dict``.
        weight_shape: shape of the weight.
        channel_axis: the weight's axis that has one scale per element (0, or 1 for transposed convolutions).
        groups: groups of a convolution, else 1.
        has_bias: whether the layer has a bias.
        macs: multiply-accumulates of this weight for one example, over all its calls.
        input_shape: shape of the (first) input.
        output_shape: shape of the (first) output.
        calls: how often the weight is used in one inference.
        tied: names of other modules whose weight is this same tensor.
        batch_norm: name of the BatchNorm that directly follows and can be absorbed, or None.
        inputs: names of the activations (`ActivationSpec.name`) that feed the layer; empty where the input stays float.
    """

    name: str
    kind: str
    parameter: str
    weight_shape: tuple[int, ...]
    channel_axis: int
    groups: int
    has_bias: bool
    macs: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    calls: int = 1
    tied: tuple[str, ...] = ()
    batch_norm: str | None = None
    inputs: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.weight_shape:
            count *= size
        return count

    @property
    def channels(self) -> int:
        """Number of scales."""
        return self.weight_shape[self.channel_axis]


@dataclass(frozen=True)
class ActivationSpec:
    """One place where an activation is quantized: the output of a producer (a chain such as conv-bn-relu, an add, …).

    Attributes:
        name: the user's module or scope that produces it (``"layer1.0.relu"``, ``"input"``).
        node: name of the node in `QuantGraph.module` after which the quantizer sits.
        shape: shape for one example.
        producer: kind of the producer: ``input | layer | add | concatenation | pool | …``.
        known_range: smallest and largest value, where its type says so (pixels as 8-bit integers); None: data decide.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    producer: str
    known_range: tuple[float, float] | None = None

    @property
    def elements(self) -> int:
        """Number of values for one example."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class FloatParameter:
    """A parameter that is not quantized, and why.

    Attributes:
        absorbed: it vanishes at lowering (a BatchNorm's parameters become part of scale and bias).
    """

    name: str
    shape: tuple[int, ...]
    elements: int
    reason: str
    absorbed: bool = False


@dataclass(frozen=True)
class FloatPlace:
    """An operator without an integer form.

    Attributes:
        layer: the user's module in whose forward it is, or ``model``.
        operator: its name.
        line: the user's line, as ``"net.py:12: x = torch.sort(x)"``; empty where it is not known.
    """

    layer: str
    operator: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.layer}: {self.operator}"

    @property
    def described(self) -> str:
        """With the line, where it is known."""
        return f"{self} ({self.line})" if self.line else str(self)


@dataclass(frozen=True)
class QuantGraph:
    """A model as a graph of calls of the user's own modules.

    `module` shares its parameters and buffers with the user's model; nothing is copied.

    Attributes:
        module: `fx.GraphModule`; ``call_module`` targets are the user's module names.
        layers: every quantizable weight, in order of first use.
        activations: every place where an activation is quantized, in order.
        float_parameters: every parameter that is not a layer's weight.
        float_places: operators without an integer form, in order.
        weightless_macs: multiply-accumulates between activations (attention), for one example.
        float_macs: those in parts of the graph that stay in float as they are: under ``torch.autocast``, or in the
            branches of ``torch.cond``, of which the larger one counts.
        input_shapes: of one example, for each input.
    """

    module: fx.GraphModule
    layers: tuple[LayerSpec, ...]
    activations: tuple[ActivationSpec, ...] = ()
    float_parameters: tuple[FloatParameter, ...] = ()
    float_places: tuple[FloatPlace, ...] = ()
    weightless_macs: int = 0
    float_macs: int = 0
    input_shapes: tuple[tuple[int, ...], ...] = field(default=())

    @cached_property
    def layer(self) -> Mapping[str, LayerSpec]:
        """The layers by name."""
        return {spec.name: spec for spec in self.layers}

    @property
    def float_operators(self) -> tuple[str, ...]:
        """Operators without an integer form, as ``"layer: operator"``."""
        return tuple(map(str, self.float_places))

    @property
    def activation_names(self) -> tuple[str, ...]:
        """Names of all activations."""
        return tuple(spec.name for spec in self.activations)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that tell this architecture from others: names, kinds and shapes, not values."""
        description = [
            [[s.name, s.kind, s.weight_shape, s.groups] for s in self.layers],
            [[a.name, a.shape] for a in self.activations],
        ]
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:16]

    def weight(self, name: str) -> Tensor:
        """The float weight of a layer: `LayerSpec.weight_shape`."""
        owner: nn.Module = self.module.get_submodule(name)
        return owner.get_parameter("weight")

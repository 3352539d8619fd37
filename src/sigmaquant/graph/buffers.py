"""Which activation buffers are alive at which step of the graph: the peak memory of an inference is theirs.

Steps are the graph's own order. A chain that merges into one kernel (convolution, BatchNorm, ReLU) has one buffer, at
its end, while what it reads stays alive until then; views share their source's buffer; an operator never writes into
its own input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, fx

from sigmaquant.exported.nodes import tensor_value
from sigmaquant.exported.shapes import count
from sigmaquant.graph.activations import Placement
from sigmaquant.graph.specs import QuantGraph


@dataclass(frozen=True)
class ActivationBuffer:
    """One tensor in memory, for one example.

    Attributes:
        activation: the `ActivationSpec` on whose grid it is, or None for what stays in floating point or is no float.
        elements: number of values.
        float_bits: bits of a value where `activation` is None.
        born: step that writes it.
        dies: last step that reads it.
    """

    activation: str | None
    elements: int
    float_bits: int
    born: int
    dies: int

    def size_bytes(self, bits: Mapping[str, int], container_bits: int = 1) -> int:
        """Bytes, rounded up, when every value takes at least `container_bits`."""
        width = self.float_bits if self.activation is None else max(bits[self.activation], container_bits)
        return (self.elements * width + 7) // 8


def activation_buffers(graph: QuantGraph) -> tuple[ActivationBuffer, ...]:
    """Every buffer of one inference in the order of birth."""
    names = {spec.node: spec.name for spec in graph.activations}
    nodes, placement = list(graph.module.graph.nodes), Placement(graph.module)
    owners: dict[fx.Node, tuple[int, ...]] = {}  # node -> the buffers that its value lies in
    grids: dict[int, str | None] = {}
    found: list[list[int]] = []  # [elements, float bits, born, dies]
    for step, node in enumerate(nodes):
        read = tuple(dict.fromkeys(b for source in node.all_input_nodes for b in owners.get(source, ())))
        for buffer in read:
            found[buffer][3] = step
        grid = names.get(node.name)
        if grid is not None:
            own = True
        elif (meaning := placement.interpretation.meaning.get(node)) is not None and meaning.passes and read:
            own, grid = not meaning.view, grids[read[0]]
        else:
            own = _has_value(node) and (node.op == "placeholder" or placement.holds_float(node))
        if not own:
            owners[node] = read  # a link of a chain: what it has read is needed until the chain writes
            continue
        value = tensor_value(node)
        owners[node], grids[len(found)] = (len(found),), grid
        found.append([count(node), 32 if value is None else 8 * value.element_size(), step, step])
    return tuple(ActivationBuffer(grids[i], *numbers) for i, numbers in enumerate(found))


def _has_value(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def peak_activation_bytes(buffers: Iterable[ActivationBuffer], bits: Mapping[str, int], container_bits: int = 1) -> int:
    """The largest sum of bytes that are alive in one step.

    Args:
        buffers: of `activation_buffers`.
        bits: bitwidth by activation name.
        container_bits: least bits that a device spends on a value, 8 where it does not pack.

    Example:
        >>> chain = [ActivationBuffer("a", 10, 32, 0, 1), ActivationBuffer("b", 6, 32, 1, 2)]
        >>> peak_activation_bytes(chain, {"a": 8, "b": 4}), peak_activation_bytes(chain, {"a": 8, "b": 4}, 8)
        (13, 16)
    """
    change: dict[int, int] = {}
    for buffer in buffers:
        size = buffer.size_bytes(bits, container_bits)
        change[buffer.born] = change.get(buffer.born, 0) + size
        change[buffer.dies + 1] = change.get(buffer.dies + 1, 0) - size
    return max(accumulate(change[step] for step in sorted(change)), default=0)

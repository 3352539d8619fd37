"""What every node of a graph means: the one reading on which quantizers are placed and integers are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import arguments, operator, writes, yields_tensor
from sigmaquant.operators.embedding import admissible, embedding, from_integers, rows_of
from sigmaquant.operators.floats import FloatProducer, carried, ending, float_producer
from sigmaquant.operators.integers import Derived, computed_nodes, derived
from sigmaquant.operators.layer_calls import parse_functional, parse_module
from sigmaquant.operators.lookup import Elementwise, parse_elementwise
from sigmaquant.operators.meaning import Meaning, constant_value, is_live, parse_function
from sigmaquant.operators.norm import is_norm, parse_norm
from sigmaquant.operators.products import products
from sigmaquant.operators.recurrent import parse_recurrent
from sigmaquant.operators.roles import Role, has_role, moves_weight
from sigmaquant.operators.softmax import HARD_MASK, Masking, masking
from sigmaquant.operators.unit_length import unit_length

_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")
_SCORES = {"add", "baddbmm", "masked_fill", "where"}


class Interpretation:
    """The meanings of a graph's nodes.

    Args:
        module: an exported graph, raised; with or without quantizers.
        is_quantizer: tells the modules that bring a value to its grid.

    Attributes:
        meaning: by node, of every node that yields a float tensor and depends on an input.
        inner: nodes whose values never lie on a grid of their own: denominators, variances, what a logarithm reads, and
            the scores that a mask is added to. Eight bits would leave nothing of them.
        absorbed: those of them that compute a vector's length for the one operator that divides by it, and
            what computes a mask.
        integers: inputs of token indices or masks, with how many different integers they hold.
    """

    def __init__(self, module: fx.GraphModule, is_quantizer: Callable[[nn.Module], bool] = lambda _: False) -> None:
        self.module, self._is_quantizer = module, is_quantizer
        self.meaning: dict[fx.Node, Meaning] = {}
        every = (node for node in module.graph.nodes if _is_float(node))
        nodes = [node for node in every if is_live(node) and not is_weight(node)]
        lengths = self._unit_lengths(nodes)
        self.absorbed = {node for inner in lengths.values() for node in inner}
        self.inner = self.absorbed | _sensitive(nodes, set(lengths))
        self.integers: dict[fx.Node, int] = {}
        self._look_up(nodes)
        sure = computed_nodes(module.graph.nodes)
        computed = [node for node in nodes if node in sure]
        masked = {node for node in nodes if _is_masked_score(node)} - set(computed)
        masked |= {node for node in _before(masked) if node not in sure and masking(node, self._count) is not None}
        for node in [node for node in nodes if node in masked]:
            if (mask := masking(node, self._count)) is not None:
                self.meaning[node] = mask
                self.integers |= {source: self._count(source) for source in mask.sources[1:]}
            elif _adds_constant(node) or _adds_products(node):  # a bias by position: the scores have a grid with it
                masked.remove(node)
        self._read_integers(computed)
        for node in nodes:
            if node in self.meaning or node in masked or node in self.absorbed:
                continue
            if (meaning := self._parsed(node)) is not None:
                self.meaning[node] = meaning
        self.inner |= masked

    def called(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None where it calls none."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _look_up(self, nodes: list[fx.Node]) -> None:
        """The embeddings of what inputs of integers say, and how many rows they have."""
        found: list[tuple[fx.Node, fx.Node | None, Derived]] = []
        for node in nodes:
            module, given = self.called(node), arguments(node)
            weight = given.get("weight")
            if isinstance(module, nn.Embedding):
                indices: object = node.args[0]
            elif operator(node) == "embedding" and isinstance(weight, fx.Node) and is_weight(weight):
                indices = given["indices"]
            else:
                continue
            said = derived(indices) if isinstance(indices, fx.Node) and is_live(indices) else None
            rows = rows_of(module, given)
            if said is None or rows is None:
                continue
            found.append((node, None if module is not None else weight, said))
            fitting = admissible(said, rows)
            self.integers[said.source] = min(self.integers.get(said.source, fitting), fitting)
        for node, weight, said in found:
            count = self.integers[said.source]
            if count and (meaning := embedding(node, count, said, weight)) is not None:
                self.meaning[node] = meaning
        self.integers = {source: count for source, count in self.integers.items() if count}

    def _count(self, source: fx.Node) -> int:
        """How many different integers an input holds; 2 where it can only be a mask."""
        return self.integers.get(source, 2)

    def _read_integers(self, computed: list[fx.Node]) -> None:
        """What is computed from inputs of integers: for masks alone, or factors by integer."""
        inside = set(computed)
        for node in reversed(computed):
            users = [user for user in node.users if user.op == "output" or yields_tensor(user)]
            mine = [
                user for user in users if user not in self.absorbed and not isinstance(self.meaning.get(user), Masking)
            ]
            if not mine:
                self.absorbed.add(node)
            elif any(user not in inside for user in mine) and (said := derived(node)) is not None:
                count = self.integers.get(said.source, 2 if said.source.meta["val"].dtype == torch.bool else 0)
                if count and (meaning := from_integers(node, count, said)) is not None:
                    self.meaning[node] = meaning
                    self.integers[said.source] = count
        for node in reversed(computed):  # what leads to a factor
            users = [user for user in node.users if user.op == "output" or yields_tensor(user)]
            if node not in self.meaning and all(user in self.absorbed or user in self.meaning for user in users):
                self.absorbed.add(node)

    def _unit_lengths(self, nodes: list[fx.Node]) -> Mapping[fx.Node, tuple[fx.Node, ...]]:
        """The divisions by a vector's own length, each with the nodes that compute that length for it alone."""
        found: dict[fx.Node, tuple[fx.Node, ...]] = {}
        for node in nodes:
            parsed = unit_length(node)
            if parsed is None:
                continue
            meaning, inner = parsed
            private = {node}
            for link in inner:  # from the divisor to the norm
                if not set(link.users) <= private:
                    break
                private.add(link)
            else:
                self.meaning[node] = meaning
                found[node] = inner
        return found

    def _parsed(self, node: fx.Node) -> Meaning | None:
        if node.op == "call_module":
            module = self.called(node)
            if module is None or self._is_quantizer(module):
                return None
            kind = "norm" if is_norm(module) else "layer"
            sources = tuple(source for source in node.all_input_nodes if is_live(source))
            return parse_module(node, module) or parse_norm(node, module) or FloatProducer(sources, 1, (), kind)
        if node.op != "call_function" or writes(node):  # what is still in place may write into what others read
            return None
        if node in self.inner:
            table = parse_elementwise(node)
            return replace(table, inner=True) if isinstance(table, Elementwise) else None
        picked = picked_from(node)
        return (
            ending(node)
            or parse_functional(node, is_weight)
            or parse_recurrent(node, is_weight)
            or parse_function(node)
            or parse_elementwise(node)
            or carried(node, picked)
            or float_producer(node, picked)
        )


def picked_from(node: fx.Node) -> fx.Node:
    """The operator with several results from which the node picks one; the node itself where it picks none."""
    source = node.args[0] if node.args else None
    return source if operator(node) == "getitem" and isinstance(source, fx.Node) else node


def is_weight(node: object) -> bool:
    """Whether a node yields a functional weight, maybe cut or with its axes in another order."""
    while isinstance(node, fx.Node):
        if node.op == "call_module":
            return not node.args
        if not moves_weight(node):
            return False
        node = node.args[0]
    return False


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op != "output" and isinstance(value, Tensor) and value.is_floating_point()


def readers(node: fx.Node) -> list[fx.Node]:
    """The users that read the values, not only a size."""
    return [user for user in node.users if user.op == "output" or yields_tensor(user)]


def _is_masked_score(node: fx.Node) -> bool:
    """Whether a mask is added for a softmax: its huge negative values would leave no grid for the scores."""
    if operator(node).removesuffix("_") not in _SCORES:
        return False
    users = readers(node)
    while len(users) == 1 and operator(users[0]) in _RESHAPES:
        users = readers(users[0])
    return bool(users) and all("softmax" in operator(user) for user in users)


def _before(masked: set[fx.Node]) -> list[fx.Node]:
    """Scores on the way to those that a mask is joined with: they may have a mask already."""
    found: list[fx.Node] = []
    stack = list(masked)
    while stack:
        source = stack.pop()
        for operand in source.all_input_nodes:
            while operator(operand) in _RESHAPES and len(readers(operand)) == 1:
                operand = operand.all_input_nodes[0]
            if operator(operand).removesuffix("_") in _SCORES and len(readers(operand)) == 1 and _is_float(operand):
                found.append(operand)
                stack.append(operand)
    return found


def _adds_constant(node: fx.Node) -> bool:
    """Whether what is added is a constant that leaves scores a grid: a parameter, or buffers without huge values."""
    operands = [arguments(node).get(name) for name in ("self", "other")]
    constants = [operand for operand in operands if isinstance(operand, fx.Node) and not is_live(operand)]
    if operator(node) != "add" or not constants:
        return False
    value = constant_value(constants[0])
    return value is None or bool((value > HARD_MASK).all())


def _adds_products(node: fx.Node) -> bool:
    """Whether all that is added was multiplied before, and nothing on the way fills in a mask (relative positions)."""
    if operator(node) != "add":
        return False
    stack, seen = list(node.all_input_nodes), set[fx.Node]()
    while stack:
        current = stack.pop()
        if current in seen or not yields_tensor(current):
            continue
        seen.add(current)
        if not is_live(current):
            value = constant_value(current)
            if value is not None and value.is_floating_point() and not bool((value > HARD_MASK).all()):
                return False
        elif current.op == "placeholder" or _fills_in(current):
            return False
        elif not products(current) and not (current.op == "call_module" and current.args):
            stack += current.all_input_nodes
    return True


def _fills_in(node: fx.Node) -> bool:
    """Whether a node may put a mask's huge numbers among its values."""
    name = operator(node).removesuffix("_")
    huge = any(isinstance(number, int | float) and abs(number) >= -HARD_MASK for number in node.args)
    return name in ("where", "masked_fill") or (name in ("add", "sub", "mul") and huge)


def _sensitive(nodes: list[fx.Node], lengths: set[fx.Node]) -> set[fx.Node]:
    """The nodes that serve nothing but a denominator, a logarithm or an inverse root."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if node in lengths or node.op != "call_function":
            continue
        for root in _roots(node):
            stack = [root]
            while stack:
                current = stack.pop()
                if current in found or not has_role(current, Role.MEASURES):
                    continue
                if not _is_float(current) and not yields_tensor(current):
                    continue
                if all(user in found or user is node or not yields_tensor(user) for user in current.users):
                    found.add(current)
                    stack.extend(source for source in current.all_input_nodes if is_live(source))
    return found


def _roots(node: fx.Node) -> list[fx.Node]:
    """What a node divides by, or takes the logarithm or inverse root of."""
    name, bound = operator(node).removesuffix("_"), arguments(node)
    if name in ("div", "divide", "true_divide"):
        candidates: list[Any] = [bound["other"]]
    elif has_role(node, Role.STEEP) or (
        name == "pow" and isinstance(bound.get("exponent"), int | float) and bound["exponent"] < 0
    ):
        candidates = [bound["self"]]
    else:
        candidates = []
    return [candidate for candidate in candidates if is_live(candidate)]

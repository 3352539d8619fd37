"""Recurrent layers as single passes over a sequence: layers, directions and cells, written out.

Afterwards every recurrent operator has one layer and one direction, sequences come batch first, the final hidden state
is the last of the outputs, and a cell is a layer over a sequence of one. Cells that the user's loop steps along a
sequence become one layer over it.
"""

from __future__ import annotations

import heapq
import operator as python
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator

aten = torch.ops.aten
_LAYERS = {
    "lstm": aten.lstm.input, "gru": aten.gru.input, "rnn_tanh": aten.rnn_tanh.input, "rnn_relu": aten.rnn_relu.input,
}  # fmt: skip
_CELLS = {"lstm_cell": "lstm", "gru_cell": "gru", "rnn_tanh_cell": "rnn_tanh", "rnn_relu_cell": "rnn_relu"}


def write_out_recurrent_(graph: fx.Graph) -> None:
    """Replace recurrent layers and cells; what is not of the plain kind (projections, packed sequences) stays."""
    chains = _chains(graph) if any(operator(node) in _CELLS for node in graph.nodes) else []
    for chain in chains:
        _Writer(graph, chain[-1].node).cells(chain)
    for node in list(graph.nodes):
        if operator(node) in _LAYERS and "batch_sizes" not in arguments(node):
            _Writer(graph, node).layers()
    if chains:
        _sort(graph)
    graph.eliminate_dead_code()


def _sort(graph: fx.Graph) -> None:
    """Nodes behind what they read, else in the order in which they are."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    missing = {node: len(node.all_input_nodes) for node in place}
    ready = [(number, node) for node, number in place.items() if not missing[node]]
    heapq.heapify(ready)
    last: fx.Node | None = None
    while ready:
        _, node = heapq.heappop(ready)
        if last is not None:
            last.append(node)
        last = node
        for user in node.users:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, (place[user], user))


@dataclass(frozen=True)
class _Cell:
    """A call of a cell.

    Attributes:
        node: the call.
        kind: of the layer.
        source: what it reads.
        states: hidden, and an LSTM's cell.
        parameters: matrices, then biases.
    """

    node: fx.Node
    kind: str
    source: fx.Node
    states: tuple[fx.Node, ...]
    parameters: tuple[fx.Node, ...]

    @property
    def results(self) -> tuple[fx.Node | None, ...]:
        """The nodes of hidden and cell; None where nobody reads it."""
        if self.kind != "lstm":
            return (self.node,)
        picked = {user.args[1]: user for user in self.node.users}
        return picked.get(0), picked.get(1)


def _cell(node: fx.Node) -> _Cell | None:
    kind = _CELLS.get(operator(node))
    if kind is None:
        return None
    given = arguments(node)
    states = tuple(given["hx"]) if isinstance(given["hx"], list | tuple) else (given["hx"],)
    parameters = tuple(given[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh") if given[key] is not None)
    picks = all(operator(user) == "getitem" for user in node.users) if kind == "lstm" else True
    plain = picks and len(parameters) in (2, 4) and _rank(given["input"]) == 2
    return _Cell(node, kind, given["input"], states, parameters) if plain else None


def _rank(node: object) -> int:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) else 0


def _chains(graph: fx.Graph) -> list[list[_Cell]]:
    """Cells, those together that step one layer along a sequence: the same weights, the state handed on.

    A step belongs to its chain where nothing that it reads depends on the steps before, and where of the cell's state
    nobody reads more than the next step does.
    """
    found: list[list[_Cell]] = []
    current: dict[fx.Node, list[_Cell]] = {}  # by the hidden state that a chain ends with
    depends: dict[fx.Node, set[fx.Node]] = {}  # on which cells a node's value depends
    for node in graph.nodes:
        above = set().union(*(depends.get(source, set()) for source in node.all_input_nodes))
        cell = _cell(node)
        if cell is not None:
            chain = current.pop(cell.states[0], None)
            if chain is None or not _continues(chain, cell, depends):
                chain = []
                found.append(chain)
            chain.append(cell)
            above = above | {node}
            hidden = cell.results[0]
            if hidden is not None:
                current[hidden] = chain
        depends[node] = above
    return found


def _continues(chain: Sequence[_Cell], cell: _Cell, depends: dict[fx.Node, set[fx.Node]]) -> bool:
    last = chain[-1]
    if last.kind != cell.kind or last.parameters != cell.parameters or last.results != cell.states:
        return False
    if any(step.node in depends.get(cell.source, ()) for step in chain):
        return False
    return all(set(state.users) == {cell.node} for state in cell.states[1:])


class _Writer:
    """Adds nodes that carry their values, in the scope of the node that they replace."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.node = graph, node
        value: Any = node.meta["val"]
        self._mode = (value[0] if isinstance(value, list | tuple) else value).fake_mode

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        """A call of an operator."""
        made = self.graph.call_function(target, args)
        made.meta = {key: value for key, value in self.node.meta.items() if key not in ("val", "constant")}
        with self._mode:
            made.meta["val"] = target(*fx.node.map_arg(args, lambda argument: argument.meta["val"]))
        return made

    def _layer(
        self, kind: str, x: fx.Node, states: Sequence[fx.Node], parameters: Sequence[fx.Node]
    ) -> tuple[fx.Node, tuple[fx.Node, ...]]:
        """One layer in one direction, batch first: its outputs [N, T, H], and its final states [N, 1, H]."""
        hx = list(states) if kind == "lstm" else states[0]
        args = (x, hx, list(parameters), len(parameters) == 4, 1, 0.0, False, False, True)
        made = self.graph.call_function(_LAYERS[kind], args)
        made.meta = {key: value for key, value in self.node.meta.items() if key not in ("val", "constant")}
        size, state = x.meta["val"], states[0].meta["val"]
        with self._mode:
            outputs = size.new_empty((*size.shape[:2], state.shape[-1]))
            made.meta["val"] = (outputs, *(torch.empty_like(item.meta["val"]) for item in states))
        y = self(python.getitem, made, 0)
        hidden = self(aten.slice.Tensor, y, 1, size.shape[1] - 1, size.shape[1])
        if kind != "lstm":
            return y, (hidden,)
        return y, (hidden, self(aten.transpose.int, self(python.getitem, made, 2), 0, 1))

    def layers(self) -> None:
        """A layer of the user, with as many layers and directions as it has."""
        node, given = self.node, arguments(self.node)
        kind, x, parameters = operator(node), given["input"], list(given["params"])
        directions = 2 if given["bidirectional"] else 1
        count, rest = divmod(len(parameters), int(given["num_layers"]) * directions)
        picked = all(operator(user) == "getitem" for user in node.users)
        value = x.meta["val"]
        first = bool(given["batch_first"])
        length = value.shape[1 if first else 0] if value.dim() == 3 else None
        plain = not rest and count == (4 if given["has_biases"] else 2) and not (given["train"] and given["dropout"])
        if not (picked and plain and isinstance(length, int) and length > 0):
            return
        states = tuple(given["hx"]) if kind == "lstm" else (given["hx"],)
        with self.graph.inserting_before(node):
            y = x if first else self(aten.transpose.int, x, 0, 1)
            finals: list[tuple[fx.Node, ...]] = []
            for layer in range(int(given["num_layers"])):
                results = []
                for direction in range(directions):
                    place = layer * directions + direction
                    own = [self._part(state, place, int(given["num_layers"]) * directions) for state in states]
                    source = self(aten.flip.default, y, [1]) if direction else y
                    result, final = self._layer(kind, source, own, parameters[place * count : (place + 1) * count])
                    results.append(self(aten.flip.default, result, [1]) if direction else result)
                    finals.append(final)
                y = self(aten.cat.default, results, 2) if directions == 2 else results[0]
            columns = [list(column) for column in zip(*finals, strict=True)]
            outputs = [y if first else self(aten.transpose.int, y, 0, 1)]
            whole = [column[0] if len(column) == 1 else self(aten.cat.default, column, 1) for column in columns]
            outputs += [self(aten.transpose.int, final, 0, 1) for final in whole]
        for user in list(node.users):
            index: Any = user.args[1]
            user.replace_all_uses_with(outputs[index])
            self.graph.erase_node(user)
        self.graph.erase_node(node)

    def _part(self, state: fx.Node, place: int, count: int) -> fx.Node:
        """The state of one layer in one direction."""
        return state if count == 1 else self(aten.slice.Tensor, state, 0, place, place + 1)

    def cells(self, chain: Sequence[_Cell]) -> None:
        """Cells along a sequence as one layer."""
        # what they read may have been replaced since the chains were found
        chain = [found for cell in chain if (found := _cell(cell.node)) is not None]
        first, last = chain[0], chain[-1]
        with self.graph.inserting_before(last.node):
            x = self._sequence([cell.source for cell in chain])
            states = [self(aten.unsqueeze.default, state, 0) for state in first.states]
            y, finals = self._layer(first.kind, x, states, first.parameters)
            outputs = [self(aten.select.int, y, 1, step) for step in range(len(chain))]
            cell_state = self(aten.squeeze.dim, finals[1], 1) if first.kind == "lstm" else None
        for cell, output in zip(reversed(chain), reversed(outputs), strict=True):
            if cell.kind != "lstm":
                cell.node.replace_all_uses_with(output)
            for user in list(cell.node.users):
                state = output if user.args[1] == 0 else cell_state
                if user.users:
                    assert state is not None, "nothing but the next cell reads a state within a chain"
                    user.replace_all_uses_with(state)
                self.graph.erase_node(user)
            self.graph.erase_node(cell.node)

    def _sequence(self, sources: Sequence[fx.Node]) -> fx.Node:
        """Vectors [N, C] as [N, T, C]; what they were selected from, where they are all of it in order."""
        if len(sources) == 1:
            return self(aten.unsqueeze.default, sources[0], 1)
        whole = _selected_from(sources)
        if whole is None:
            return self(aten.stack.default, list(sources), 1)
        source, dim = whole
        return source if dim == 1 else self(aten.transpose.int, source, 0, 1)


def _whole(node: fx.Node) -> fx.Node:
    """What a slice that leaves out nothing reads; ``x[:, 0]`` begins with one."""
    while operator(node) == "slice":
        given = arguments(node)
        start, end, source = given["start"] or 0, given["end"], given["self"]
        if start != 0 or given["step"] != 1 or not (end is None or (isinstance(end, int) and end >= 2**31)):
            break
        node = source
    return node


def _selected_from(sources: Sequence[fx.Node]) -> tuple[fx.Node, int] | None:
    """The sequence whose steps the nodes are, and its axis of time; None where they are no whole one."""
    found = []
    for step, node in enumerate(sources):
        name, given = operator(node), arguments(node)
        if name == "select":
            source, dim, index = given["self"], given["dim"], given["index"]
        elif name == "getitem" and operator(parts := node.all_input_nodes[0]) == "unbind":
            source, dim, index = arguments(parts)["self"], arguments(parts)["dim"], node.args[1]
        else:
            return None
        if not isinstance(index, int) or _rank(source) != 3:
            return None
        source = _whole(source)
        size = source.meta["val"].shape[dim % 3]
        if size != len(sources) or index % len(sources) != step:
            return None
        found.append((source, dim % 3))
    return found[0] if len(set(found)) == 1 and found[0][1] < 2 else None

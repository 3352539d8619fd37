"""Moves that are one: which, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx_cases import Net, check

from sigmaquant.export.onnx.simplifying import with_fewer_moves
from sigmaquant.operators import Permute, Reshape


@pytest.mark.parametrize(
    ("axes", "kind"),
    [((0, 2, 1, 3), Reshape), ((1, 0, 2, 3), Reshape), ((0, 1, 3, 2), Permute), ((3, 1, 2, 0), Permute)],
)
def test_axes_of_size_one_change_no_order(axes: tuple[int, ...], kind: type, tmp_path: Path) -> None:
    net = Net()
    net.add(Permute, net.input(3, 1, 4, 5), axes=axes)
    (found,) = with_fewer_moves(net.model()).operators
    assert type(found) is kind
    check(net.model(), tmp_path, exact=True)


def test_reshapes_in_a_row_are_one(tmp_path: Path) -> None:
    """Also where they fold into rows and back."""
    net = Net()
    source = net.input(4, 6, 5)
    source = net.add(Reshape, source, shape=(6, 1, 5), grid=replace(net.edges[source], name="e1", rows=4))
    source = net.add(Permute, source, axes=(1, 0, 2))
    net.add(Reshape, source, shape=(4, 30), grid=replace(net.edges[source], name="e3", rows=1))
    check(net.model(), tmp_path, exact=True)
    (operator,) = with_fewer_moves(net.model()).operators
    assert operator.inputs == ("e0",)
    assert sum(node.op_type == "Reshape" for node in onnx.load(tmp_path / "model.onnx").graph.node) == 1


def test_what_something_else_reads_stays(tmp_path: Path) -> None:
    net = Net()
    source = net.input(4, 6)
    first = net.add(Reshape, source, shape=(6, 4))
    second = net.add(Reshape, first, shape=(24,))
    third = net.add(Reshape, first, shape=(3, 8))
    for outputs, count in (((second, third), 3), ((first, second), 3), ((second,), 3)):
        model = net.model(*outputs)
        assert len(with_fewer_moves(model).operators) == count
        check(model, tmp_path, exact=True)

"""Every operator with unusual arguments: the file gives the codes of LiteRT's form, which are the reference's."""

from __future__ import annotations

import pytest
import torch
from litert_cases import Call, lowered, noise, read
from litert_networks import NETWORKS, POOLS, SEVERAL, constant, on_image, shared
from torch import nn

from sigmaquant.errors import ExportError
from sigmaquant.export.litert import LitertRunner, LitertWatch, export_litert, litert_form
from sigmaquant.lowering import IntegerExecutor

pytest.importorskip("ai_edge_litert")

FLOAT_STEPS = 1e-5
"""Of outputs in float, which have no codes."""
WIDTHS = {"8 bits": (8, 8), "mixed": ((3, 8, 5, 4), (5, 7, 4, 6))}
ROUNDED_ON_THE_WAY = {name for name in POOLS if "linear" in name}
"""The runtime's kernel for them ends on the grid that it begins on."""


def each(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def steps_apart(found, expected, model):
    """By output, how many steps values are apart."""
    result = []
    for name, one, other in zip(model.outputs, each(found), each(expected), strict=True):
        edge = model.edges[name]
        assert one.shape == other.shape
        assert len(one) % edge.rows == 0
        result.append(((one - other) / (FLOAT_STEPS if edge.is_float else edge.scale)).abs().round())
    return result


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_code_is_that_of_the_form(name, widths, tmp_path):
    network, shapes = NETWORKS[name]
    bits, activation_bits = WIDTHS[widths]
    model = lowered(network, *shapes, bits=bits, activation_bits=activation_bits)
    assert not model.float_operators
    form, reference = IntegerExecutor(litert_form(model)), IntegerExecutor(model)
    for inputs in ("float", "int8"):
        export_litert(model, tmp_path / "x.tflite", inputs=inputs)
        run = LitertRunner(tmp_path / "x.tflite")
        for batch in (5, 1):
            x = [noise(batch, *shape, seed=5 + i) for i, shape in enumerate(shapes)]
            assert all(int(apart.max()) == 0 for apart in steps_apart(run(*x), form(*x), model))
    x = [noise(5, *shape, seed=5 + i) for i, shape in enumerate(shapes)]
    for apart in steps_apart(form(*x), reference(*x), model):
        if bits == 8 and name in ROUNDED_ON_THE_WAY:
            assert int(apart.max()) <= 1
        elif bits == 8:  # halves, which are rounded up here and to even there
            assert float(apart.clamp(max=1).mean()) < 0.05


@pytest.mark.parametrize("name", [*SEVERAL, "transposed 3 by 2", "prelu", "where", "class token", "six dimensions"])
def test_what_is_inside_can_be_watched(name, tmp_path):
    network, shapes = NETWORKS[name]
    form = litert_form(lowered(network, *shapes, bits=4, activation_bits=(5, 8)))
    export_litert(form, tmp_path / "x.tflite")
    x = [noise(3, *shape, seed=5 + i) for i, shape in enumerate(shapes)]
    found, seen = LitertWatch(tmp_path / "x.tflite", form)(*x), []

    def compare(edge, codes):
        if edge.name in found:
            assert torch.equal(found[edge.name].reshape(codes.shape), codes), edge.name
            seen.append(edge.name)

    executor = IntegerExecutor(form)
    executor.run_codes(*executor.quantize_inputs(*x), watch=compare)
    assert seen
    assert len(seen) == len(found)


def test_activations_with_numbers_in_their_names_are_not_mixed_up(tmp_path):
    """A second tensor of an activation is not called like the activation of a layer's second call."""
    model = lowered(Call(lambda m, x: m.a(m.a(m.a(x))) + x, a=shared()), (4, 6, 6))
    assert {"a", "a_1"} <= set(model.edges)
    export_litert(model, tmp_path / "x.tflite")
    x = noise(3, 4, 6, 6)
    found, executor = LitertWatch(tmp_path / "x.tflite", litert_form(model))(x), IntegerExecutor(litert_form(model))
    seen = {}
    executor.run_codes(*executor.quantize_inputs(x), watch=lambda edge, codes: seen.update({edge.name: codes}))
    assert {"a", "a_1"} <= set(found)
    assert all(torch.equal(codes, seen[name]) for name, codes in found.items())


def operators_of(case, tmp_path):
    network, shapes = case
    export_litert(lowered(network, *shapes), tmp_path / "x.tflite", inputs="int8")
    return read(tmp_path / "x.tflite").operators


def test_kernels_for_8_bits_are_taken_where_there_are_some(tmp_path):
    def written(name):
        return operators_of(NETWORKS[name], tmp_path)

    assert written("transposed by 2") == ["TRANSPOSE", "CONV_2D", "DEPTH_TO_SPACE", "TRANSPOSE"]
    assert written("transposed 1d")[2:-2] == ["PAD", "CONV_2D", "RESHAPE", "STRIDED_SLICE"]
    assert written("prelu")[2:-1] == ["MUL", "DEPTHWISE_CONV_2D", "MAXIMUM"]
    assert written("bilinear")[2:-1] == ["RESIZE_BILINEAR", "MUL"]
    assert written("plus positions") == ["FULLY_CONNECTED", "RESHAPE", "DEPTHWISE_CONV_2D", "RESHAPE"]
    assert written("softmax of channels")[2:] == ["DEQUANTIZE", "SOFTMAX", "TRANSPOSE"]
    assert written("broadcast sum")[-2:] == ["ADD", "TRANSPOSE"]


def test_a_constant_that_only_widens_costs_no_transposition(tmp_path):
    by_channel = on_image(lambda m, x: torch.max_pool2d(m.a(x), 2) * m.k["c"], k=constant(4, 1, 1))
    assert operators_of(by_channel, tmp_path) == [
        "TRANSPOSE",
        "CONV_2D",
        "MAX_POOL_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE",
    ]


def test_inputs_that_do_not_fit_are_told(tmp_path):
    export_litert(lowered(Call(lambda m, x: m.a(x), a=nn.Linear(6, 4)), (6,)), tmp_path / "x.tflite")
    run = LitertRunner(tmp_path / "x.tflite")
    with pytest.raises(ExportError, match=r"takes 1 input.* but 2 were given"):
        run(noise(2, 6), noise(2, 6))
    with pytest.raises(ExportError, match=r"cannot run this file on inputs of shape \(2, 7\)"):
        run(noise(2, 7))
    assert run(noise(2, 6)).shape == (2, 4)

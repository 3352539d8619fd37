"""Files for TensorFlow Lite Micro, run in its own interpreter: every code is that of the form."""

from __future__ import annotations

import itertools

import pytest
import torch
from tflm_cases import NETWORKS, Call, lowered, noise
from torch import nn

from sigmaquant.errors import ArtifactError, ExportError
from sigmaquant.export.tflm import TflmRunner, export_tflm, tflm_form
from sigmaquant.lowering import IntegerExecutor

pytest.importorskip("tflite_micro")

FLOAT_STEPS = 1e-5
SHOWN = (
    "broadcast sum", "weighted sum", "number at the input", "sum over places", "own product", "minimum with broadcast",
    "unary", "prelu", "times channels", "average without padding counted", "transposed by 2", "two of each",
)  # fmt: skip


def apart(model, path, form, x):
    """By output, how many steps the file and the form are apart."""
    run = TflmRunner(path)
    found, expected = run(*x), IntegerExecutor(form)(*x)
    run.close()
    pairs = zip(*(y if isinstance(y, tuple) else (y,) for y in (found, expected)), strict=True)
    edges = [model.edges[name] for name in model.outputs]
    return [
        ((one - other) / (FLOAT_STEPS if edge.is_float else edge.scale)).abs().round()
        for (one, other), edge in zip(pairs, edges, strict=True)
    ]


@pytest.mark.parametrize("name", SHOWN)
def test_every_code_is_that_of_the_form(name, tmp_path):
    network, shapes = NETWORKS[name]
    model = lowered(network, *shapes, bits=(3, 8, 5, 4), activation_bits=(5, 8, 7, 6))
    report = export_tflm(model, tmp_path / "x.tflite", inputs="int8")
    x = [noise(6, *shape, seed=5 + i) for i, shape in enumerate(shapes)]
    assert all(float(steps.max()) == 0 for steps in apart(model, tmp_path / "x.tflite", tflm_form(model), x))
    assert report.arena_bytes > 0


@pytest.mark.parametrize(("widths", "midrise_up_to"), [((2, 3, 5, 7, 8), 0), ((2, 4), 4)])
def test_weights_of_every_width_are_packed(widths, midrise_up_to, tmp_path):
    """Ordinary, depthwise and linear layers, whose channels are first, last, and first."""
    layers = {
        "a": nn.Conv2d(16, 48, 3),
        "b": nn.Conv2d(48, 48, 5, groups=48, padding=2),
        "c": nn.Conv2d(48, 32, 1),
        "d": nn.Linear(32, 40),
    }
    network = Call(lambda m, x: m.d(m.c(torch.relu(m.b(m.a(x)))).mean((2, 3))), **layers)
    x, path, sizes = [noise(4, 16, 7, 7, seed=3)], tmp_path / "x.tflite", []
    for bits in widths:
        model = lowered(network, (16, 7, 7), bits=bits, midrise_up_to=midrise_up_to)
        report = export_tflm(model, path)
        assert all(float(steps.max()) == 0 for steps in apart(model, path, tflm_form(model), x))
        assert {layer.name: layer.stored_bits for layer in report.layers}["a"] == bits
        assert report.file_bytes == path.stat().st_size
        sizes.append(report.file_bytes)
    plain = export_tflm(model, path, pack=False)
    assert all(layer.stored_bits == 8 for layer in plain.layers)
    sizes.append(plain.file_bytes)
    assert all(a < b for a, b in itertools.pairwise(sizes[: len(widths)]))
    assert sizes[-2] <= sizes[-1]


def test_recurrent_layers_are_within_a_step(tmp_path):
    """Their gates are computed in float; a scale for each row must not be taken for one of the whole matrix."""
    network = Call(lambda m, x: m.d(m.a(x)[0]), a=nn.LSTM(12, 16, batch_first=True), d=nn.Linear(16, 4))
    model = lowered(network, (6, 12), bits=(3, 5, 8))
    report = export_tflm(model, tmp_path / "x.tflite", inputs="int8")
    assert {layer.stored_bits for layer in report.layers} >= {3, 5}
    (steps,) = apart(model, tmp_path / "x.tflite", tflm_form(model), [noise(32, 6, 12, seed=3)])
    assert float(steps.max()) <= 1
    assert float(steps.mean()) < 0.2


def test_a_weight_that_is_used_twice_is_stored_once(tmp_path):
    network = Call(lambda m, x: m.a(torch.relu(m.a(x))), a=nn.Conv2d(16, 16, 3, padding=1))
    model = lowered(network, (16, 5, 5), bits=4)
    once = lowered(Call(lambda m, x: m.a(x), a=nn.Conv2d(16, 16, 3, padding=1)), (16, 5, 5), bits=4)
    twice = export_tflm(model, tmp_path / "x.tflite")
    assert twice.file_bytes - export_tflm(once, tmp_path / "y.tflite").file_bytes < 16 * 16 * 9 // 2
    x = [noise(4, 16, 5, 5, seed=3)]
    assert all(float(steps.max()) == 0 for steps in apart(model, tmp_path / "x.tflite", tflm_form(model), x))


@pytest.mark.parametrize(
    ("name", "said"), [("pixel shuffle", "Transpose op only supports"), ("times nothing", "RIGHT_SHIFT")]
)
def test_what_the_runtime_refuses_is_named_and_not_written(name, said, tmp_path):
    network, shapes = NETWORKS[name]
    model = lowered(network, *shapes)
    with pytest.raises(ExportError, match=r"'.+' \(\w+\): TensorFlow Lite Micro refuses it: .*" + said):
        export_tflm(model, tmp_path / "x.tflite")
    assert not (tmp_path / "x.tflite").exists()


def test_a_file_that_crashes_the_runtime_ends_in_one_line(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"nothing of the kind" * 40)
    with pytest.raises(ArtifactError, match=r"crashes TensorFlow Lite Micro|refuses it"):
        TflmRunner(tmp_path / "x.tflite")


def test_inputs_that_do_not_fit_are_told(tmp_path):
    export_tflm(lowered(Call(lambda m, x: m.a(x), a=nn.Linear(6, 4)), (6,)), tmp_path / "x.tflite")
    run = TflmRunner(tmp_path / "x.tflite")
    with pytest.raises(ExportError, match=r"takes 1 input.* but 2 were given"):
        run(noise(2, 6), noise(2, 6))
    with pytest.raises(ExportError, match="inputs of shape"):
        run(noise(2, 7))
    assert run(noise(2, 6)).shape == (2, 4)

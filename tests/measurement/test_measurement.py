"""Runners and the fit of a profile; the devices are made of numbers or of tiny programs."""

from __future__ import annotations

import json
import math
import shlex
import sys

import pytest
from typer.testing import CliRunner

from sigmaquant.cli import app as program
from sigmaquant.errors import MeasurementError, StorageError
from sigmaquant.hardware.profile import HardwareProfile, Method, load_profile
from sigmaquant.hardware.profiled import ProfiledCosts
from sigmaquant.measurement.fit import Measured, fit_profile
from sigmaquant.measurement.measure import measure_device, planned_commands
from sigmaquant.measurement.micro import build, micro_models
from sigmaquant.measurement.runner import CommandRunner, parse_latency_ms

METHOD = Method(date="2026-01-01", command="made up")


def true_latency(graph, plan):
    """A device: 0.01 ms a layer, 1 ns a byte, 2 ns a MAC of a convolution, 5 of a depthwise one, at 8 bits."""
    total = 0.002
    for spec in graph.layers:
        per_mac = 5 if spec.groups > 1 else 2
        total += 0.01 + 1e-6 * (math.prod(spec.input_shape) + math.prod(spec.output_shape))
        total += 1e-6 * per_mac * spec.macs * (0.5 + plan.weights[spec.name] / 16)
    return total


@pytest.fixture(scope="module")
def built():
    return [(micro, *build(micro)[:2]) for micro in micro_models((2, 8))]


def test_a_linear_device_is_found_again(built):
    measured = [Measured(micro.name, graph, plan, true_latency(graph, plan)) for micro, graph, plan in built]
    fit = fit_profile(measured, "toy", "for tests", METHOD)
    assert fit.mean_error < 1e-3
    entries = {(entry.layer, entry.w_bits): entry for entry in fit.profile.compute.table}
    assert entries["conv", 8].cycles_per_mac == pytest.approx(2.0, rel=0.01)
    assert entries["depthwise", 8].cycles_per_mac == pytest.approx(5.0, rel=0.01)
    assert entries["conv", 2].cycles_per_mac == pytest.approx(2 * (0.5 + 2 / 16), rel=0.01)
    assert fit.profile.overhead.latency_ms_per_layer == pytest.approx(0.01, rel=0.01)
    # the profile predicts what the fit does
    _, graph, plan = built[0]
    found = ProfiledCosts(graph, fit.profile).cost(plan).latency_ms
    assert found == pytest.approx(true_latency(graph, plan), rel=0.01)


def test_too_few_measurements_are_told(built):
    _, graph, plan = built[0]
    with pytest.raises(MeasurementError, match="cannot tell 5 unknowns apart"):
        fit_profile([Measured("x", graph, plan, 1.0)], "toy", "", METHOD)


def test_a_runner_s_words():
    runner = CommandRunner("ssh 'my board' search_state --n={runs} {model}")
    assert runner.command("a b.onnx", 7) == ["ssh", "my board", "search_state", "--n=7", "a b.onnx"]
    with pytest.raises(MeasurementError, match="does not say where the model goes"):
        CommandRunner("search_state")
    with pytest.raises(MeasurementError, match="cannot be split"):
        CommandRunner("search_state '{model}")


@pytest.mark.parametrize("text", ["", "done\n", "latency: nan", "-3", '{"latency": 3}', "0"])
def test_output_without_a_latency_is_told(text):
    with pytest.raises(MeasurementError, match="printed no latency"):
        parse_latency_ms(text, "./bench")


def python(code):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {{model}} {{runs}}"


def test_runners_that_fail_are_told(tmp_path):
    model = tmp_path / "m"
    assert CommandRunner(python("print('warm', 2.5)"))(model, 3) == 2.5
    with pytest.raises(MeasurementError, match="exit code 3; it said: no such board"):
        CommandRunner(python("import sys; print('no such board', file=sys.stderr); sys.exit(3)"))(model, 3)
    with pytest.raises(MeasurementError, match="was not found"):
        CommandRunner("no-such-program {model}")(model, 3)
    with pytest.raises(MeasurementError, match=r"took longer than 0\.2 s"):
        CommandRunner(python("import time; time.sleep(9)"), timeout_s=0.2)(model, 3)


def test_a_measurement_goes_on_where_it_was(tmp_path, monkeypatch):
    calls = []

    class Device:
        template, timeout_s, clock_mhz = "device {model}", 1.0, None

        def __call__(self, model, runs):
            calls.append(model.name)
            if len(calls) == 5:
                raise MeasurementError("the cable fell out")
            return 0.1 + len(calls) / 100

    out, device = tmp_path / "toy.json", Device()

    def write(integers, path):
        path.write_bytes(b"model")

    options = {"name": "toy", "out": out, "weight_bits": (8,), "repeats": 2, "models": tmp_path / "models"}
    with pytest.raises(MeasurementError, match="cable"):
        measure_device(device, write, ".onnx", **options)
    assert not out.exists()
    measure_device(device, write, ".onnx", **options)
    count = len(micro_models((8,)))
    assert len(calls) == 2 * count + 1
    assert len(set(calls)) == count
    assert calls[-count:] == list(dict.fromkeys(calls)), "a model's measurements are as far apart as can be"
    profile = load_profile(out)
    assert profile.name == "toy"
    assert {entry.w_bits for entry in profile.compute.table} == {8}
    lines = [json.loads(line) for line in (tmp_path / "toy.json.measurements.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * count


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("")
    options = {"name": "toy", "out": tmp_path / "toy.json", "models": tmp_path / "file" / "models"}
    with pytest.raises(StorageError, match="Nothing was measured"):
        measure_device(CommandRunner("device {model}"), None, ".onnx", **options)


def test_of_the_repeats_the_fastest_counts(tmp_path):
    class Busy:
        """The second measurement of every model is disturbed, in every second model the first one is."""

        template, timeout_s, clock_mhz = "device {model}", 1.0, None

        def __init__(self):
            self.seen = []

        def __call__(self, model, runs):
            self.seen.append(model.name)
            disturbed = (len(set(self.seen)) % 2 == 0) == (self.seen.count(model.name) == 1)
            return 5.0 if disturbed else 1.0

    options = {"name": "toy", "weight_bits": (8,), "models": tmp_path / "models"}
    write = lambda integers, path: path.write_bytes(b"model")  # noqa: E731
    fit = measure_device(Busy(), write, ".onnx", out=tmp_path / "toy.json", repeats=2, **options)
    overhead = fit.profile.overhead
    assert overhead.latency_ms_per_inference == pytest.approx(1.0, abs=1e-6)  # all took 1 ms, whatever they are
    with pytest.raises(MeasurementError, match="at least once"):
        measure_device(Busy(), write, ".onnx", out=tmp_path / "toy2.json", repeats=0, **options)


def test_planned_commands_name_every_model():
    commands = planned_commands(CommandRunner("run {model} {runs}"), ".onnx", (8,), 5)
    assert len(commands) == len(micro_models((8,))) == len(set(commands))
    assert commands[0] == "run conv-c8-s32-d1-w8.onnx 5"


def test_cycles_are_those_of_the_clock(tmp_path):
    runner = CommandRunner(python("""print('{"cycles": 2500}')"""), clock_mhz=100)
    assert runner(tmp_path, 1) == pytest.approx(0.025)
    assert CommandRunner(python("print('cycles: 2500')"), clock_mhz=100)(tmp_path, 1) == pytest.approx(0.025)
    with pytest.raises(MeasurementError, match="give --clock-mhz"):
        CommandRunner(python("""print('{"cycles": 2500}')"""))(tmp_path, 1)
    with pytest.raises(MeasurementError, match="printed no number of cycles"):
        CommandRunner(python("""print('{"latency_ms": 2500}')"""), clock_mhz=100)(tmp_path, 1)
    with pytest.raises(MeasurementError, match="give a positive number"):
        CommandRunner("board {model}", clock_mhz=0)


def test_time_of_operators_without_weights_is_found_and_predicted(built):
    per_value = 2e-6

    def latency(graph, plan):
        values = sum(spec.elements for spec in graph.activations if spec.producer not in ("input", "layer"))
        return true_latency(graph, plan) + per_value * values

    measured = [Measured(micro.name, graph, plan, latency(graph, plan)) for micro, graph, plan in built]
    fit = fit_profile(measured, "toy", "for tests", METHOD, clock_mhz=50, program="c")
    assert fit.profile.overhead.latency_ns_per_weightless_value == pytest.approx(1e6 * per_value, rel=0.01)
    assert fit.profile.compute.clock_mhz == 50
    assert fit.profile.program == "c"
    read = HardwareProfile.from_dict(json.loads(json.dumps(fit.profile.to_dict())))
    for micro, graph, plan in built:
        if micro.weightless:
            assert ProfiledCosts(graph, read).cost(plan).latency_ms == pytest.approx(latency(graph, plan), rel=0.01)


@pytest.mark.parametrize("target", ["c", "litert"])
def test_other_targets_are_measured(target, tmp_path, monkeypatch):
    few = [micro for micro in micro_models((8,)) if micro.size <= 8 or micro.weightless]
    monkeypatch.setattr("sigmaquant.measurement.measure.micro_models", lambda bits: few[:2])
    if target == "litert":
        pytest.importorskip("ai_edge_litert")
    seen = tmp_path / "seen"
    code = (
        f"import sys, os; open({str(seen)!r}, 'a').write(sys.argv[1] + chr(10)); print(os.path.isdir(sys.argv[1]) + 1)"
    )
    out = tmp_path / "board.json"
    done = CliRunner().invoke(
        program, ["hardware", "measure", "--to", target, "--clock-mhz", "80", "--weight-bits", "8", "--repeats", "1",
                  "--runner", python(code), "--out", str(out)],
    )  # fmt: skip
    assert "cannot tell" in str(done.output) + str(done.exception), done.output  # two models are too few to fit
    paths = seen.read_text().split()
    assert all(path.endswith(".tflite") == (target == "litert") for path in paths)
    row = json.loads(out.with_name("board.json.measurements.jsonl").read_text().splitlines()[0])
    assert row["latency_ms"] == pytest.approx((2 if target == "c" else 1) / 80e3)

"""From a runner to a profile: write micro-models, run them, keep every figure, fit."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from sigmaquant.errors import MeasurementError
from sigmaquant.hardware.profile import Method
from sigmaquant.json_text import read_json
from sigmaquant.lowering import IntegerModel
from sigmaquant.measurement.fit import CLOCK_MHZ, Fit, Measured, fit_profile
from sigmaquant.measurement.micro import build, micro_models
from sigmaquant.measurement.runner import CommandRunner
from sigmaquant.runs import NullProgress, Progress, task
from sigmaquant.runs.atomic import storage_error, write_text_atomic
from sigmaquant.runs.scratch import ScratchFolder

Write = Callable[[IntegerModel, Path], None]
_BEFORE = {"target": "onnx", "clock_mhz": None}
"""Of measurements that do not say."""


def measure_device(
    runner: CommandRunner,
    write: Write,
    suffix: str,
    *,
    name: str,
    out: Path,
    target: str = "onnx",
    weight_bits: Sequence[int] = (2, 4, 8),
    runs: int = 50,
    repeats: int = 3,
    models: Path | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Measure a device and write its profile.

    Every latency is kept beside the profile, in ``<out>.measurements.jsonl``: an interrupted measurement goes on where
    it was, as long as runner, files, clock and number of runs are the same. Of a model's repeats, which are as far
    apart as can be, the fastest counts: what else a machine does only ever adds time.

    Args:
        runner: runs one file.
        write: writes a model's file, such as `sigmaquant.export.onnx.export_onnx`.
        suffix: of the file, such as ``".onnx"``.
        name: of the profile.
        out: the profile's file.
        target: what the files are, such as ``"c"``.
        weight_bits: bitwidths to measure; those between are interpolated.
        runs: inferences in one measurement.
        repeats: measurements of each model.
        models: where the models go and stay; None: a temporary folder.
        progress: display.

    Raises:
        MeasurementError: the runner fails or prints no latency; fewer than two bitwidths are not an error.
        ExportError, MissingExtraError, StorageError: the models cannot be written.
    """
    progress = progress or NullProgress()
    micros = micro_models(tuple(weight_bits))
    notes = out.with_name(out.name + ".measurements.jsonl")
    conditions = {"runner": runner.template, "runs": runs, "target": target, "clock_mhz": runner.clock_mhz}
    known = _read(notes, conditions)
    if repeats < 1:
        raise MeasurementError(f"repeats is {repeats}; every model is measured at least once.")
    with ExitStack() as stack:
        if models is None:
            models = stack.enter_context(ScratchFolder())
        try:
            models.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(models, error, "Nothing was measured.") from error
        built = [(micro, *build(micro)) for micro in micros]
        stack.enter_context(task(progress, "measuring", repeats * len(micros)))
        for turn in range(repeats):
            for micro, _, _, integers in built:
                latencies = known.setdefault(micro.name, [])
                if len(latencies) <= turn:
                    path = models / (micro.name + suffix)
                    if not path.exists() or turn == 0:
                        write(integers, path)
                    latencies.append(runner(path, runs))
                    _append(notes, conditions, micro.name, latencies[-1])
                progress.note(model=micro.name, latency_ms=latencies[turn])
                progress.advance(1)
    measured = [Measured(micro.name, graph, plan, min(known[micro.name])) for micro, graph, plan, _ in built]
    cycles = runner.clock_mhz is not None
    method = Method(
        date=datetime.date.today().isoformat(),
        command=f"sigmaquant hardware measure --to {target} --runner {runner.template!r} --runs {runs} "
        f"--repeats {repeats}" + (f" --clock-mhz {runner.clock_mhz:g}" if cycles else ""),
        stimuli=f"{len(micros)} micro-models of equal layers, sums and concatenations, written as {target}, weights of "
        f"{sorted(weight_bits)} bits",
        notes=(
            "cycles are as the runner prints them" if cycles else "a cycle is a nanosecond",
            "fitted to latencies, each with equal weight on its relative error",
            f"of each model's {repeats} measurements the fastest counts",
        ),
    )
    fit = fit_profile(
        measured,
        name,
        f"Measured with {runner.template!r} on {target} files.",
        method,
        clock_mhz=runner.clock_mhz or CLOCK_MHZ,
        program="c" if target == "c" else None,
    )
    write_text_atomic(out, json.dumps(fit.profile.to_dict(), indent=2) + "\n")
    return fit


def planned_commands(runner: CommandRunner, suffix: str, weight_bits: Sequence[int], runs: int) -> list[str]:
    """What `measure_device` would run, for a look beforehand."""
    return [" ".join(runner.command(Path(m.name + suffix), runs)) for m in micro_models(tuple(weight_bits))]


def _read(path: Path, conditions: Mapping[str, object]) -> dict[str, list[float]]:
    if not path.exists():
        return {}
    found: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = read_json(line)
            if {**_BEFORE, **row}.items() >= conditions.items():
                found.setdefault(str(row["model"]), []).append(float(row["latency_ms"]))
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a process that was killed while it wrote
    return found


def _append(path: Path, conditions: Mapping[str, object], name: str, latency_ms: float) -> None:
    row = {"model": name, "latency_ms": latency_ms, **conditions}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise MeasurementError(f"the measurement could not be kept in {path}: {error.strerror or error}.") from None

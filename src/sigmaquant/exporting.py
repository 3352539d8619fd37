"""Files that run, from a finished run: written, then verified against the integer reference."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigmaquant.data import DataSource, as_source
from sigmaquant.errors import ExportError, near_matches
from sigmaquant.export.packed import export_packed, load_packed
from sigmaquant.export.verification import Reference, Runner, Verification, Watch, latency_ms
from sigmaquant.hardware.costs import IdealCosts
from sigmaquant.loading import load_quantized
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.lowering.executor import encode
from sigmaquant.lowering.model import Edge
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.runs import NullProgress, Progress, task
from sigmaquant.runs.atomic import write_text_atomic

log = logging.getLogger("sigmaquant")

FOLDER = "export"
REPORT = "verification.json"


@dataclass(frozen=True)
class ExportOptions:
    """How files are written.

    Attributes:
        onnx_form: ``"planes"`` (any runtime from opset 18 on) or ``"native"`` (opset 25).
        inputs: ``"float"``, or codes as ``"int8"`` or (ONNX only) ``"uint8"``.
        pack: LiteRT: the narrowest containers that its kernels take; False: int8, for speed.
        name: of the network, in files and C identifiers.
    """

    onnx_form: Literal["planes", "native"] = "planes"
    inputs: Literal["float", "int8", "uint8"] = "float"
    pack: bool = True
    name: str = "model"


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        file: its name in the export folder.
        required: least share of examples whose argmax must equal the reference's.
        write: writes it.
        runner: runs it as it is verified.
        deployed: runs it at the runtime's default settings; None: those are the same.
        watch: shows its inner activations; None: it cannot.
        timed: whether its time on this machine says anything.
        form: the reference as this runtime computes it; None: the reference itself.
    """

    file: str
    required: float
    write: Callable[[QuantizedNetwork, IntegerModel, Path, ExportOptions], None]
    runner: Callable[[Path, _Source], Runner]
    deployed: Callable[[Path, _Source], Runner] | None = None
    watch: Callable[[Path, _Source], Watch] | None = None
    form: Callable[[IntegerModel, ExportOptions], IntegerModel] | None = None
    timed: bool = False


@dataclass(frozen=True)
class _Source:
    """The float architecture and an input, for files that hold no architecture of their own."""

    model: nn.Module
    example: tuple[Tensor, ...]
    edge: Edge


def _write_onnx(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.onnx import export_onnx

    export_onnx(model, path, form=options.onnx_form, inputs=options.inputs, name=options.name)


def _run_onnx(path: Path, source: _Source, fused: bool) -> Runner:
    from sigmaquant.export.onnx import OnnxRunner

    runner = OnnxRunner(path, fused=fused)
    kind = runner.session.get_inputs()[0].type
    if kind == "tensor(float)":
        return runner

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:  # files that take codes
        codes = [encode(x, source.edge) for x in inputs]
        return runner(*(x if kind == "tensor(int8)" else (x.to(torch.int16) + 128).to(torch.uint8) for x in codes))

    return run


def _write_litert(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.litert import export_litert

    if options.inputs == "uint8":
        raise ExportError("LiteRT files take float or int8 inputs, not uint8. Choose one of these.")
    export_litert(model, path, pack=options.pack, inputs=options.inputs, name=options.name)


def _run_litert(path: Path, xnnpack: bool) -> Runner:
    from sigmaquant.export.litert import LitertRunner

    return LitertRunner(path, xnnpack=xnnpack)


def _litert_form(model: IntegerModel, options: ExportOptions) -> IntegerModel:
    from sigmaquant.export.litert import litert_form

    return litert_form(model, options.pack)


def _write_c(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.c import export_c

    export_c(model, path, name=options.name)


def _run_c(path: Path) -> Runner:
    from sigmaquant.export.c import CRunner

    return CRunner(path)


def _executor(path: Path, source: _Source) -> IntegerExecutor:
    return IntegerExecutor(lower(load_packed(source.model, source.example, path)))


def _watch_packed(path: Path, source: _Source) -> Watch:
    executor = _executor(path, source)

    def watch(x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        executor.run_codes(*executor.quantize_inputs(x), watch=lambda edge, codes: found.update({edge.name: codes}))
        return found

    return watch


TARGETS: dict[str, Target] = {
    "onnx": Target(
        "model.onnx",
        0.999,
        _write_onnx,
        lambda path, source: _run_onnx(path, source, fused=False),
        lambda path, source: _run_onnx(path, source, fused=True),
        timed=True,
    ),
    "litert": Target(
        "model.tflite",
        0.999,
        _write_litert,
        lambda path, source: _run_litert(path, xnnpack=True),
        form=_litert_form,
        timed=True,
    ),
    "c": Target("model_c", 1.0, _write_c, lambda path, _: _run_c(path)),
    "packed": Target(
        "model.safetensors",
        1.0,
        lambda network, model, path, options: export_packed(network, path),
        _executor,
        watch=_watch_packed,
    ),
}
"""Every kind of file by name."""


def export_run(
    model: nn.Module,
    run: str | Path,
    data: Any,
    *,
    to: Sequence[str] = ("onnx",),
    out: str | Path | None = None,
    options: ExportOptions | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Write a run's network as files and verify each.

    Args:
        model: the trained float model.
        run: the run directory.
        data: what to verify on, as for `quantize`; targets are not used.
        to: kinds of files, keys of `TARGETS`.
        out: the folder; None: ``export`` in the run directory.
        options: how files are written.
        examples: at most so many examples are run; None: all.
        progress: display.

    Returns:
        a verdict for each file. A file that fails stays where it is; ``verification.json`` beside it says why.

    Raises:
        ExportError: an unknown kind of file, or a network that it cannot hold; nothing has been written then.
        MissingExtraError: an optional dependency is missing.
    """
    names = _known(to)
    source, batches = _inputs(data, examples)
    network = load_quantized(model, source, run)
    reference = Reference(lower(network), batches)
    options = options or ExportOptions()
    folder = Path(run) / FOLDER if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / TARGETS[name].file for name in names}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as staging:  # all of them, or none
        for name in names:
            TARGETS[name].write(network, reference.model, Path(staging) / TARGETS[name].file, options)
        for path in paths.values():
            if path.is_dir():
                shutil.rmtree(path)
            (Path(staging) / path.name).replace(path)
    return _verified(
        paths, reference, network, _Source(model, source, _input_edge(reference)), folder, options, progress
    )


def verify_run(
    model: nn.Module, path: str | Path, data: Any, *, examples: int | None = None, progress: Progress | None = None
) -> tuple[Verification, ...]:
    """Verify the files of a run again.

    Args:
        model: the trained float model.
        path: a run directory, its export folder, or one file in it.
        data: as for `export_run`.
        examples: as for `export_run`.
        progress: display.

    Raises:
        ExportError: there is no such file, or none of the known kinds.
    """
    run, paths = _artifacts(Path(path))
    source, batches = _inputs(data, examples)
    network = load_quantized(model, source, run)
    reference = Reference(lower(network), batches)
    folder = next(iter(paths.values())).parent
    context = _Source(model, source, _input_edge(reference))
    return _verified(paths, reference, network, context, folder, _read_options(folder), progress)


def _input_edge(reference: Reference) -> Edge:
    return reference.model.edges[reference.model.inputs[0]]


def _read_options(folder: Path) -> ExportOptions:
    """How the files in a folder were written, as far as that is known."""
    try:
        return ExportOptions(**json.loads((folder / REPORT).read_text(encoding="utf-8"))["options"])
    except (OSError, ValueError, KeyError, TypeError):
        return ExportOptions()


def _known(to: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(to))
    for name in names:
        if name not in TARGETS:
            raise ExportError(f"there is no kind of file {name!r}. {near_matches(name, TARGETS)}")
    if not names:
        raise ExportError(f"no kind of file was asked for. Give at least one of {', '.join(TARGETS)}.")
    return names


def _inputs(data: Any, examples: int | None) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    found: DataSource = as_source(data, batch_size=100, name="verification data")
    if examples is not None:
        found = found.take(examples)
    example = found.example()
    if isinstance(example, tuple):
        raise ExportError("only models with one input can be verified.")
    return (example[:2],), [inputs for inputs, _ in found.batches() if isinstance(inputs, Tensor)]


def _artifacts(path: Path) -> tuple[Path, dict[str, Path]]:
    """The run directory and the files to verify."""
    kinds = {target.file: name for name, target in TARGETS.items()}
    if path.name in kinds:
        if not path.exists():
            raise ExportError(f"there is no file {path}. Write it with `sigmaquant export`.")
        return path.parent.parent, {kinds[path.name]: path}
    folder = path if path.name == FOLDER else path / FOLDER
    found = {name: folder / file for file, name in kinds.items() if (folder / file).exists()}
    if not found:
        raise ExportError(
            f"{path} holds no exported file ({', '.join(kinds)} in its folder {FOLDER!r}). "
            "Write some with `sigmaquant export`."
        )
    return folder.parent, found


def _verified(
    paths: dict[str, Path],
    reference: Reference,
    network: QuantizedNetwork,
    source: _Source,
    folder: Path,
    options: ExportOptions,
    progress: Progress | None,
) -> tuple[Verification, ...]:
    progress = progress or NullProgress()
    plan = network.plan
    assert plan is not None, "a loaded network has one"
    ideal = IdealCosts(network.graph).cost(plan).total_bytes
    one = reference.batches[0][:1]
    with torch.no_grad():
        float_ms = latency_ms(source.model.eval(), one)
    verdicts = []
    with task(progress, "verifying", len(paths)):
        for name, path in paths.items():
            verdict = _verify(name, path, reference, source, options, ideal, float_ms)
            log.info("%s: argmax agreement %.4f %s", path, verdict.agreement.argmax, "" if verdict.passed else "FAILED")
            verdicts.append(verdict)
            progress.advance(1)
    document = {
        "examples": reference.examples,
        "options": asdict(options),
        "artifacts": [verdict.to_dict() for verdict in verdicts],
    }
    write_text_atomic(folder / REPORT, json.dumps(document, indent=2, default=str) + "\n")
    return tuple(verdicts)


def _verify(
    name: str,
    path: Path,
    reference: Reference,
    source: _Source,
    options: ExportOptions,
    ideal_bytes: int,
    float_ms: float,
) -> Verification:
    target = TARGETS[name]
    notes: tuple[str, ...] = ()
    if target.form is not None:
        plain = reference.agreement(target.runner(path, source))
        notes = (f"{100 * plain.argmax:.2f} % equal argmax with the reference of all other files",)
        reference = Reference(target.form(reference.model, options), reference.batches)
    runner = target.runner(path, source)
    deployed = None if target.deployed is None else target.deployed(path, source)
    verdict = Verification(
        target=name,
        path=path,
        required=target.required,
        agreement=reference.agreement(runner),
        as_deployed=None if deployed is None else reference.agreement(deployed),
        ideal_bytes=ideal_bytes,
        real_bytes=_bytes(path),
        notes=notes,
        latency_ratio=latency_ms(deployed or runner, reference.batches[0][:1]) / float_ms if target.timed else None,
    )
    if verdict.passed:
        return verdict
    watch = _outputs_of(runner, reference) if target.watch is None else target.watch(path, source)
    return replace(verdict, first_difference=reference.first_difference(watch))


def _outputs_of(runner: Runner, reference: Reference) -> Watch:
    """What can be seen of an artifact that shows nothing inside: its output."""

    def watch(x: Tensor) -> dict[str, Tensor]:
        outputs = runner(x)
        return {reference.edge.name: encode(outputs[0] if isinstance(outputs, tuple) else outputs, reference.edge)}

    return watch


def _bytes(path: Path) -> int:
    """Bytes of a file, or of a C folder's constants in flash: its sources are text."""
    if path.is_file():
        return path.stat().st_size
    document = json.loads((path / "export.json").read_text(encoding="utf-8"))
    return int(document["weight_bytes"] + document["table_bytes"])

"""The kinds of files: how each is written, run, looked into, and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from sigmaquant.errors import ArtifactError, CheckpointError, ExportError, ModelError, PlanError
from sigmaquant.export.nested import export_nested, load_nested
from sigmaquant.export.packed import export_packed, load_packed
from sigmaquant.export.verification import Runner, Watch
from sigmaquant.graph.inputs import ExampleInputs
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.operators import Edge
from sigmaquant.quant import QuantizedNetwork


@dataclass(frozen=True)
class ExportOptions:
    """How files are written.

    Attributes:
        onnx_form: ``"planes"`` (any runtime from opset 18 on) or ``"native"`` (opset 25).
        inputs: ``"float"``, or codes as ``"int8"`` or (ONNX only) ``"uint8"``.
        pack: LiteRT: the narrowest containers that its kernels take; False: int8, for speed. TensorFlow Lite Micro: the
            bits of the plan; False: int8, for memory.
        name: of the network, in files and C identifiers.
        logits: leaves out the softmax, log-softmax or sigmoid at the network's end; otherwise it stands in float behind
            the last integers.
    """

    onnx_form: Literal["planes", "native"] = "planes"
    inputs: Literal["float", "int8", "uint8"] = "float"
    pack: bool = True
    name: str = "model"
    logits: bool = False

    def held(self, model: IntegerModel) -> IntegerModel:
        """The part of the network that a file holds."""
        return model.without_endings() if self.logits else model


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        file: its name in the export folder.
        required: least share of examples that must be decided as by the reference.
        write: writes it.
        runner: runs it as it is verified.
        watch: shows its inner activations, given the reference that it is compared with.
        deployed: runs it at the runtime's default settings; None: those are the same.
        timed: whether its time on this machine says anything.
        exact: whether every output code must be the reference's.
        runtime: whose crashes a file can cause, as `sigmaquant.export.probe.probe` names it; empty: none.
        form: the reference as this runtime computes it; None: the reference itself.
        ram: bytes of memory that the file needs where it is deployed, once it was run; None: that is not known.
    """

    file: str
    required: float
    write: Callable[[QuantizedNetwork, IntegerModel, Path, ExportOptions], None]
    runner: Callable[[Path, Source], Runner]
    watch: Callable[[Path, Source, IntegerModel], Watch]
    deployed: Callable[[Path, Source], Runner] | None = None
    form: Callable[[IntegerModel, ExportOptions], IntegerModel] | None = None
    timed: bool = False
    exact: bool = False
    runtime: str = ""
    ram: Callable[[Path, Runner], int | None] | None = None


@dataclass(frozen=True)
class Source:
    """The float architecture and its inputs, for files that hold no architecture of their own.

    Attributes:
        model: the float network.
        example: its inputs, as for `sigmaquant.graph.trace`.
        edges: the integer model's inputs, in its order, which is that of the files.
        outputs: the integer model's outputs.
        one: a single example of these inputs.
    """

    model: nn.Module
    example: ExampleInputs
    edges: tuple[Edge, ...]
    one: ExampleInputs = ()
    outputs: tuple[Edge, ...] = ()


def _write_onnx(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.onnx import export_onnx

    export_onnx(model, path, form=options.onnx_form, inputs=options.inputs, name=options.name)


def _run_onnx(path: Path, source: Source, fused: bool) -> Runner:
    from sigmaquant.export.onnx.runtime import OnnxRunner, as_given

    runner = OnnxRunner(path, fused=fused)

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return runner(*(as_given(x, edge, kind) for x, edge, kind in zip(inputs, source.edges, kinds, strict=True)))

    kinds = runner.input_types
    return _batch_first(runner if all(kind == "tensor(float)" for kind in kinds) else run, source.outputs)


def _batch_first(run: Runner, edges: Sequence[Edge]) -> Runner:
    """With the batch first in every output, as codes have it."""
    axes = [edge.batch_axis for edge in edges]
    if not any(axes):
        return run

    def moved(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = run(*inputs)
        outputs = found if isinstance(found, tuple) else (found,)
        first = tuple(y.movedim(axis, 0) for y, axis in zip(outputs, axes, strict=True))
        return first if isinstance(found, tuple) else first[0]

    return moved


def _watch_onnx(path: Path, source: Source, model: IntegerModel) -> Watch:
    from sigmaquant.export.onnx import OnnxWatch

    return OnnxWatch(path, model)


def _write_litert(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.litert import export_litert

    if options.inputs == "uint8":
        raise ExportError("LiteRT files take float or int8 inputs, not uint8. Choose one of these.")
    export_litert(model, path, pack=options.pack, inputs=options.inputs, name=options.name)


def _run_litert(path: Path, xnnpack: bool) -> Runner:
    from sigmaquant.export.litert import LitertRunner

    return LitertRunner(path, xnnpack=xnnpack)


def _watch_litert(path: Path, source: Source, model: IntegerModel) -> Watch:
    from sigmaquant.export.litert import LitertWatch

    return LitertWatch(path, model)


def _litert_form(model: IntegerModel, options: ExportOptions) -> IntegerModel:
    from sigmaquant.export.litert import litert_form

    return litert_form(model, options.pack)


def _write_tflm(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.tflm import export_tflm

    if options.inputs == "uint8":
        raise ExportError("files for TensorFlow Lite Micro take float or int8 inputs, not uint8. Choose one of these.")
    export_tflm(model, path, pack=options.pack, inputs=options.inputs, name=options.name)


def _run_tflm(path: Path, source: Source) -> Runner:
    from sigmaquant.export.tflm import TflmRunner

    return TflmRunner(path)


def _watch_tflm(path: Path, source: Source, model: IntegerModel) -> Watch:
    from sigmaquant.export.tflm import TflmWatch

    return TflmWatch(path, model)


def _tflm_form(model: IntegerModel, options: ExportOptions) -> IntegerModel:
    from sigmaquant.export.tflm import tflm_form

    return tflm_form(model)


def _arena(path: Path, runner: Runner) -> int | None:
    found = getattr(runner, "arena_bytes", None)
    return found if isinstance(found, int) else None


def _write_c(network: QuantizedNetwork, model: IntegerModel, path: Path, options: ExportOptions) -> None:
    from sigmaquant.export.c import export_c

    export_c(model, path, name=options.name)


def _run_c(path: Path, source: Source, plan: int = 0) -> Runner:
    from sigmaquant.export.c import CRunner

    runner = CRunner(path, plan=plan)
    inputs, outputs = runner.edges
    expected = tuple(replace(edge, batch_axis=0) for edge in source.outputs)  # one example has no batch
    if outputs and len(outputs) == len(expected):  # behind a function in float, C has the grid of what it reads
        pairs = zip(outputs, expected, runner.endings, strict=True)
        outputs = tuple(ours if ending and ours.is_float else theirs for theirs, ours, ending in pairs)
    for theirs, ours in ((inputs, source.edges), (outputs, expected)):
        if theirs != ours and ours:
            raise ArtifactError(f"{path} has inputs or outputs on other grids than the network: {theirs}, not {ours}.")
    return runner


def _ram_of_c(path: Path, runner: Runner) -> int | None:
    from sigmaquant.export.c.report import ram_bytes

    return ram_bytes(path)


def _watch_c(path: Path, source: Source, model: IntegerModel) -> Watch:
    from sigmaquant.export.c import CRunner

    return CRunner(path).watch


def _executor(path: Path, source: Source, plan: int | None = None) -> IntegerExecutor:
    try:
        if plan is not None:
            return IntegerExecutor(lower(load_nested(source.model, source.example, path, plan)))
        return IntegerExecutor(lower(load_packed(source.model, source.example, path)))
    except (CheckpointError, PlanError, ModelError) as error:
        raise ArtifactError(str(error)) from error


def _run_packed(path: Path, source: Source, plan: int | None = None) -> Runner:
    executor = _executor(path, source, plan)
    return _batch_first(executor, [executor.edges[name] for name in executor.model.outputs])


def _watch_packed(path: Path, source: Source, model: IntegerModel, plan: int | None = None) -> Watch:
    executor = _executor(path, source, plan)

    def watch(*x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        executor.run_codes(*executor.quantize_inputs(*x), watch=lambda edge, codes: found.update({edge.name: codes}))
        return found

    return watch


TARGETS: dict[str, Target] = {
    "onnx": Target(
        "model.onnx",
        0.999,
        _write_onnx,
        lambda path, source: _run_onnx(path, source, fused=False),
        _watch_onnx,
        lambda path, source: _run_onnx(path, source, fused=True),
        timed=True,
        runtime="onnx",
    ),
    "litert": Target(
        "model.tflite",
        0.999,
        _write_litert,
        lambda path, source: _run_litert(path, xnnpack=True),
        _watch_litert,
        form=_litert_form,
        timed=True,
        runtime="litert",
    ),
    "tflm": Target(
        "model_micro.tflite",
        0.999,
        _write_tflm,
        _run_tflm,
        _watch_tflm,
        form=_tflm_form,
        runtime="tflm",
        ram=_arena,
    ),
    "c": Target("model_c", 1.0, _write_c, _run_c, _watch_c, exact=True, ram=_ram_of_c),
    "packed": Target(
        "model.safetensors",
        1.0,
        lambda network, model, path, options: export_packed(network, path),
        _run_packed,
        _watch_packed,
        exact=True,
    ),
}
"""Every kind of file by name."""


def plan_target(name: str, plan: int) -> Target:
    """A kind of file as it holds one of several plans, 0 the largest.

    The packed file and the C folder hold all of them; of other kinds there is a file for each.
    """
    target = TARGETS[name]
    if name == "packed":
        return replace(
            target,
            runner=lambda path, source: _run_packed(path, source, plan),
            watch=lambda path, source, model: _watch_packed(path, source, model, plan),
        )
    if name == "c":
        from sigmaquant.export.c import CRunner

        return replace(
            target,
            runner=lambda path, source: _run_c(path, source, plan),
            watch=lambda path, source, model: CRunner(path, plan=plan).watch,
        )
    file = Path(target.file)
    return replace(target, file=f"{file.stem}_plan_{plan}{file.suffix}")


def write_plans(
    name: str,
    networks: Mapping[str, QuantizedNetwork],
    models: Mapping[str, IntegerModel],
    folder: Path,
    options: ExportOptions,
) -> None:
    """Write all plans of a network in one kind of file, or in one file each.

    Args:
        name: of the kind.
        networks: by the plans' names, from the largest to the smallest.
        models: likewise, what the files hold.
        folder: for the files.
        options: how they are written.
    """
    if name == "packed":
        export_nested(networks, folder / TARGETS[name].file)
    elif name == "c":
        from sigmaquant.export.c import export_c_plans

        export_c_plans(models, folder / TARGETS[name].file, name=options.name)
    else:
        for number, plan in enumerate(networks):
            target = plan_target(name, number)
            target.write(networks[plan], models[plan], folder / target.file, options)

"""Files that run, from a finished run: written, then verified against the integer reference.

The reference itself is held against the trained quantized network first: no file is right where its integers are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.data import DataSource, Inputs, Keys, Structure, as_source
from sigmaquant.errors import ArtifactError, ExportError, RunDirectoryError, SigmaQuantError, StorageError
from sigmaquant.export.c.report import FILE as LISTING
from sigmaquant.export.codes import EXAMPLES, compare_codes
from sigmaquant.export.decisions import Decisions
from sigmaquant.export.feasibility import IN_FLOAT, known_targets
from sigmaquant.export.fidelity import FORMED, Fidelity, FidelityCheck, Parting
from sigmaquant.export.holding import Held, exceeded
from sigmaquant.export.probe import probe
from sigmaquant.export.targets import TARGETS, ExportOptions, Source, Target
from sigmaquant.export.verification import Reference, Runner, Verification, Watch, latency_ms
from sigmaquant.graph.inputs import map_tensors, read_arguments
from sigmaquant.graph.reading import read_copy
from sigmaquant.hardware.costs import IdealCosts
from sigmaquant.json_text import read_json
from sigmaquant.lowering import lower
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.report import checkpoint_digest, refresh_report
from sigmaquant.runs import NullProgress, Progress, RunFiles, task
from sigmaquant.runs.atomic import storage_error, write_text_atomic
from sigmaquant.runs.scratch import ScratchFolder
from sigmaquant.tasks import OneOutput, Task, as_task
from sigmaquant.workflow.loading import keys_of, load_quantized, run_task

log = logging.getLogger("sigmaquant")

_FEW = 8
"""Examples whose activations are compared where the task is lenient."""

FOLDER = "export"
REPORT = "verification.json"


def export_run(
    model: nn.Module,
    run: str | Path,
    data: Any,
    *,
    to: Sequence[str] = ("onnx",),
    task: Task | str | None = None,
    out: str | Path | None = None,
    options: ExportOptions | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Write a run's network as files and verify each.

    Args:
        model: the trained float model.
        run: the run directory.
        data: what to verify on, as for `quantize`; of the targets only the kind matters, class or value.
        to: kinds of files, keys of `TARGETS`.
        task: when two decisions are alike, as for `quantize`; None: the run's, or where that is made of code that is
            not part of the run, by every output.
        out: the folder; None: ``export`` in the run directory.
        options: how files are written.
        examples: at most so many examples are run; None: all.
        progress: display.

    Returns:
        a verdict for each file. A file that fails stays where it is; ``verification.json`` beside it says why.

    Raises:
        ExportError: an unknown kind of file, a network that it cannot hold, or one whose integers compute something
            else than the quantized network; nothing has been written then.
        MissingExtraError: an optional dependency is missing.
        StorageError: the disk is full, or the folder is not writable.
    """
    names = known_targets(to)
    folder = Path(run) / FOLDER if out is None else Path(out)
    options = options or ExportOptions()
    subject = _loaded(model, run, data, examples, folder, dict.fromkeys(names, options), task)
    paths = {name: folder / TARGETS[name].file for name in names}
    with all_or_none(folder) as staging:
        for name in names:
            held = options.held(subject.reference.model)
            TARGETS[name].write(subject.network, held, staging / TARGETS[name].file, options)
        digests = {name: digest_of(staging / TARGETS[name].file) for name in names}
    written = {name: Written(options, digest) for name, digest in digests.items()}
    verdicts, document = _verified(paths, subject, folder, Path(run), written, progress)
    keep(document, folder, Path(run))
    return verdicts


@contextlib.contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """A folder to write files in, which take their places in `folder` when all of them are written.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ScratchFolder(folder, ".writing-") as scratch:
            staging = scratch / "files"  # beside the lock of the scratch folder
            staging.mkdir()
            yield staging
            for written in sorted(staging.iterdir()):
                place = folder / written.name
                if place.is_dir():
                    shutil.rmtree(place)
                written.replace(place)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(folder, error, "The export is not complete.") from error


def verify_run(
    model: nn.Module,
    path: str | Path,
    data: Any,
    *,
    task: Task | str | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Verify the files of a run again.

    Args:
        model: the trained float model.
        path: a run directory, its export folder, or one file in it.
        data: as for `export_run`.
        task: as for `export_run`.
        examples: as for `export_run`.
        progress: display.

    Raises:
        ExportError: there is no such file, or none of the known kinds, or the integers that the files hold compute
            something else than the quantized network.
    """
    run, paths = _artifacts(Path(path))
    folder = next(iter(paths.values())).parent
    written = _read_written(folder, paths)
    options = {name: item.options for name, item in written.items()}
    subject = _loaded(model, run, data, examples, folder, options, task)
    verdicts, document = _verified(paths, subject, folder, run, written, progress)
    try:
        keep(document, folder, run)
    except StorageError as error:  # a read-only disk, say: the verdict is what was asked for
        log.warning("the verdict is not kept: %s", error)
    return verdicts


@dataclass(frozen=True)
class Written:
    """What is known of how a file was written.

    Attributes:
        options: how.
        sha256: `digest_of` it then; None: not known.
    """

    options: ExportOptions = field(default_factory=ExportOptions)
    sha256: str | None = None


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a C folder that of its list of files, which has their digests.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        with (path / LISTING if path.is_dir() else path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}).") from error


@dataclass(frozen=True)
class Subject:
    """A run's network, what its files are compared with, what they need to run, and how right the integers are."""

    network: QuantizedNetwork
    reference: Reference
    source: Source
    integers: Fidelity
    unended: Decisions

    def of(self, target: str, options: ExportOptions) -> tuple[Reference, Source]:
        """What a file is compared with, and what it needs to run: without the network's ending if it was left out."""
        if not options.logits or not self.reference.model.endings or target in IN_FLOAT:
            return self.reference, self.source
        reference = self.reference.like(options.held(self.reference.model), self.unended)
        return reference, replace(self.source, outputs=reference.edges)


def _loaded(
    model: nn.Module,
    run: str | Path,
    data: Any,
    examples: int | None,
    folder: Path,
    options: Mapping[str, ExportOptions],
    task: Task | str | None,
) -> Subject:
    """What is exported or verified.

    Raises:
        ExportError: the integers, or a form of them that a kind of file holds, are not the network's.
    """
    own = task_of_run(run, task)
    given = read_inputs(data, keys_of(model, own), examples)
    model = read_copy(model).cpu().eval()  # the user's stays as it is
    return subject_of(model, load_quantized(model, given[0], run), given, own, folder, options)


def subject_of(
    model: nn.Module,
    network: QuantizedNetwork,
    given: GivenInputs,
    own: Task,
    folder: Path,
    options: Mapping[str, ExportOptions],
) -> Subject:
    """What is exported or verified of a quantized network.

    Args:
        model: the float network, a copy.
        network: its quantized network.
        given: from `read_inputs`.
        own: the task that its outputs are for.
        folder: whose files are no longer verified where the integers are wrong.
        options: how each kind of file is written.

    Raises:
        ExportError: the integers, or a form of them that a kind of file holds, are not the network's.
    """
    inputs, batches, targets = given
    lowered = lower(network)
    check = FidelityCheck(network, lowered)
    parting = check.run(batches)
    for name, chosen in options.items():
        form = TARGETS[name].form
        if parting is None and form is not None:
            parting = FidelityCheck(network, form(lowered, chosen), FORMED).run(batches)
    if parting is not None:
        _withdraw(folder, parting)
        raise ExportError(
            f"the integers do not compute what the quantized network computes. They part first at {parting}. Every "
            "file would hold these integers, so none is written, and none that is there counts as verified. Write the "
            f"operator that gives {parting.activation!r} in another way, and report this with the model: it is an "
            "error of the lowering."
        )
    few = tuple(x[:2] for x in batches[0])
    seen = (network, lowered, few, own, None if targets is None else targets[:2])
    decisions = Decisions.of(*seen)
    ordered = [tuple(batch[i] for i in check.order) for batch in batches]
    reference = Reference(lowered, ordered, decisions=decisions)
    integers = check.fidelity(batches, reference.codes, decisions=decisions)
    edges = tuple(lowered.edges[name] for name in lowered.inputs)
    outputs = tuple(lowered.edges[name] for name in lowered.outputs)
    one = map_tensors(inputs, lambda x: x[:1])
    source = Source(model, inputs, edges, one, outputs)
    unended = Decisions.of(*seen, held=lowered.without_endings())
    return Subject(network, reference, source, integers, unended)


def task_of_run(run: str | Path, task: Task | str | None) -> Task:
    """The task that is asked for, or the run's; where that is not known, one output or all by their values."""
    if task is not None:
        return as_task(task)
    try:
        config = RunFiles(run).read_config()
    except RunDirectoryError:  # plan and checkpoint are all that it takes
        config = {}
    found = run_task(config)
    if found is None:
        name = config.get("task", {}).get("name", OneOutput.name)
        if name != OneOutput.name:
            log.warning(
                "the run's task %r is made of code that is not part of the run: the files are compared by all outputs. "
                "Give it: task=, or --task path/file.py:NAME",
                name,
            )
        kind = config.get("settings", {}).get("outputs", "auto")
        found = OneOutput(outputs=kind)
    return found


def _withdraw(folder: Path, parting: Parting) -> None:
    """No file of the folder counts as verified any more, as far as its verdicts can be rewritten."""
    with contextlib.suppress(OSError, StorageError, ValueError, KeyError, TypeError):
        document = read_json((folder / REPORT).read_bytes(), infinities=True)
        for item in document["artifacts"]:
            item |= {"passed": False, "first_difference": f"integers against the quantized network: {parting}"}
        write_text_atomic(folder / REPORT, json.dumps({**document, "integers": None}, indent=2) + "\n")


def _read_written(folder: Path, names: Iterable[str]) -> dict[str, Written]:
    """How each of a folder's files was written, as far as that is known."""
    written = dict.fromkeys(names, Written())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for item in read_json((folder / REPORT).read_bytes(), infinities=True)["artifacts"]:
            if item["target"] in written:
                digest = item.get("sha256")
                options = ExportOptions(**item["options"])
                written[item["target"]] = Written(options, digest if isinstance(digest, str) else None)
    return written


GivenInputs = tuple[Structure, list[tuple[Tensor, ...]], Tensor | None]
"""An example, all inputs, and the first batch's targets."""


def read_inputs(data: Any, keys: Keys, examples: int | None) -> GivenInputs:
    """An example as the model takes it, all inputs, each a tuple of tensors, and the first batch's targets if known.

    Raises:
        ExportError: there are no data.
    """
    found: DataSource = as_source(data, batch_size=100, name="verification data", keys=keys)
    if examples is not None:
        found = found.take(examples)
    example = map_tensors(found.example_structure(), lambda x: x[:2].cpu())
    batches = list(found.batches())
    if not batches:
        raise ExportError("verification needs data, but there are none.")
    targets = batches[0][1].cpu() if isinstance(batches[0][1], Tensor) else None
    inputs = [tuple(x.cpu() for x in _tupled(given)) for given, _ in batches]
    return example, inputs, targets


def _tupled(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _artifacts(path: Path) -> tuple[Path, dict[str, Path]]:
    """The run directory and the files to verify."""
    kinds = {target.file: name for name, target in TARGETS.items()}
    if path.name in kinds:
        if not path.exists():
            raise ExportError(f"there is no file {path}. Write it with `sigmaquant export`.")
        return path.resolve().parent.parent, {kinds[path.name]: path}
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
    subject: Subject,
    folder: Path,
    run: Path,
    written: Mapping[str, Written],
    progress: Progress | None,
) -> tuple[tuple[Verification, ...], dict[str, Any]]:
    """The verdicts, and the document that is kept of them."""
    progress = progress or NullProgress()
    reference, source, integers = subject.reference, subject.source, subject.integers
    plan = subject.network.plan
    assert plan is not None, "a loaded network has one"
    ideal = IdealCosts(subject.network.graph).cost(plan).total_bytes
    with torch.no_grad():
        float_ms = float_latency_ms(source)
    agreement, held = integers.agreement, _held(run)
    log.info("integers beside the quantized network: decided alike %.4f", agreement.decisions)
    verdicts = []
    with task(progress, "verifying", len(paths)):
        for name, path in paths.items():
            own = subject.of(name, written[name].options)
            verdict = replace(verify_file(name, path, *own, written[name], ideal, float_ms), integers=integers)
            if not verdict.problem:
                limits = held.compared(verdict, plan)
                verdict = replace(verdict, limits=limits, over=exceeded(limits))
            alike = 0.0 if verdict.agreement is None else verdict.agreement.decisions
            log.info("%s: decided alike %.4f %s", path, alike, "" if verdict.passed else "FAILED")
            verdicts.append(verdict)
            progress.advance(1)
    digest = checkpoint_digest(RunFiles(run))
    document = {
        "examples": reference.examples,
        "checkpoint_sha256": digest,
        "integers": asdict(integers),
        "artifacts": [
            *(record_of(verdict, written[verdict.target].options) for verdict in verdicts),
            *_others(folder, paths, digest),
        ],
    }
    return tuple(verdicts), document


def float_latency_ms(source: Source) -> float:
    """Time of one example in the float network."""
    given = read_arguments(source.model, source.one)
    return latency_ms(lambda *args: source.model(*args, **given.kwargs), given.args)


def _held(run: Path) -> Held:
    """What a run allows; nothing is known of one whose documents cannot be read."""
    files = RunFiles(run)
    try:
        return Held.of(files.read_result(), files.read_config())
    except SigmaQuantError:
        return Held({}, "total", False)


def keep(document: Mapping[str, Any], folder: Path, run: Path) -> None:
    """Write the verdicts, and show them in the run's report.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_text_atomic(folder / REPORT, json.dumps(document, indent=2, default=str) + "\n")
    if folder.resolve() == (run / FOLDER).resolve():  # files elsewhere are not in the run's report
        refresh_report(run)


def record_of(verdict: Verification, options: ExportOptions) -> dict[str, Any]:
    """An artifact's verdict as it is kept; what is said of the integers stands once beside all of them."""
    record = {**verdict.to_dict(), "options": asdict(options)}
    del record["integers"]
    return record


def _others(folder: Path, verified: Mapping[str, Path], digest: str | None) -> list[dict[str, Any]]:
    """Earlier verdicts on the other files of the same network that are still there."""
    try:
        document = read_json((folder / REPORT).read_bytes(), infinities=True)
        if document["checkpoint_sha256"] != digest:
            return []
        known = {item["target"]: item for item in document["artifacts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        item
        for name, item in known.items()
        if name in TARGETS and name not in verified and (folder / TARGETS[name].file).exists()
    ]


def verify_file(
    name: str,
    path: Path,
    reference: Reference,
    source: Source,
    written: Written,
    ideal_bytes: int,
    float_ms: float,
    kind: Target | None = None,
) -> Verification:
    """The verdict on a file.

    Args:
        name: of its kind.
        path: where it is.
        reference: what it is compared with.
        source: what it needs to run.
        written: how it was written.
        ideal_bytes: of the plan.
        float_ms: one example in the float network.
        kind: its kind, where that is not `TARGETS`' own.
    """
    target = kind or TARGETS[name]
    asked = reference.decisions.required
    verdict = Verification(
        target=name,
        path=path,
        required=target.required if target.exact or asked is None else min(asked, target.required),
        exact=target.exact,
        agreement=None,
        as_deployed=None,
        ideal_bytes=ideal_bytes,
        real_bytes=_bytes(path),
        sha256=written.sha256,
    )
    try:
        if written.sha256 is None:
            if target.runtime:
                probe(target.runtime, path)
        elif digest_of(path) != written.sha256:
            raise ArtifactError(
                f"{path} is not the file that was written: its SHA-256 is another. It was changed or damaged since, "
                "and is not run. Export the network again."
            )
        return _run(target, verdict, reference, source, written, float_ms)
    except ArtifactError as error:
        return replace(verdict, problem=str(error))


def _run(
    target: Target, verdict: Verification, reference: Reference, source: Source, written: Written, float_ms: float
) -> Verification:
    """The verdict on a file that can be run.

    Raises:
        ArtifactError: it cannot.
    """
    notes: list[str] = []
    path = verdict.path
    runner = target.runner(path, source)
    if target.form is not None:
        plain = reference.agreement(runner)
        notes.append(f"{100 * plain.decisions:.2f} % decided as by the reference of all other files")
        reference = reference.like(target.form(reference.model, written.options))
    deployed = None if target.deployed is None else target.deployed(path, source)
    verdict = replace(
        verdict,
        agreement=reference.agreement(runner),
        as_deployed=None if deployed is None else reference.agreement(deployed),
        latency_ratio=latency_ms(deployed or runner, reference.one) / float_ms if target.timed else None,
        ram_bytes=None if target.ram is None else target.ram(path, runner),
    )
    inside: Watch | None = None
    lenient = verdict.required < target.required
    if written.sha256 is None or lenient:
        inside = target.watch(path, source, reference.model)
        few = tuple(x[: _FEW if lenient else EXAMPLES] for x in reference.batches[0])
        codes = compare_codes(reference.model, few, inside(*few))
        verdict = replace(verdict, codes=codes, first_difference=codes.difference)
        because = "no digest of it is known" if written.sha256 is None else "the task asks for fewer decisions alike"
        notes.append(
            f"{because}: {codes.activations} activations were compared operator by operator as well, each of the "
            f"file's own codes; they are {codes.largest_steps} steps apart at most"
        )
    verdict = replace(verdict, notes=tuple(notes))
    if verdict.passed or verdict.first_difference:
        return verdict
    watch = _with_output(inside or target.watch(path, source, reference.model), runner, reference)
    return replace(verdict, first_difference=reference.first_difference(watch))


def _with_output(inside: Watch, runner: Runner, reference: Reference) -> Watch:
    """What can be seen inside, and the output as it was judged."""

    def watch(*x: Tensor) -> dict[str, Tensor]:
        outputs = runner(*x)
        expected = reference.executor.run_codes(*reference.executor.quantize_inputs(*x))
        found = reference.shaped(outputs, expected)
        return {**inside(*x), **dict(zip(reference.model.outputs, found, strict=True))}

    return watch


def _bytes(path: Path) -> int:
    """Bytes of a file, or of a C folder's constants in flash, its sources are text; 0 where that cannot be told."""
    try:
        if path.is_file():
            return path.stat().st_size
        document = read_json((path / LISTING).read_bytes())
        return int(document["weight_bytes"] + document["table_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0

"""Files that run, from a finished run: written, then verified against the integer reference."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.data import DataSource, as_source
from sigmaquant.errors import ExportError, StorageError, near_matches
from sigmaquant.export.targets import TARGETS, ExportOptions, Source
from sigmaquant.export.verification import Reference, Runner, Verification, Watch, latency_ms
from sigmaquant.graph.reading import read_copy
from sigmaquant.hardware.costs import IdealCosts
from sigmaquant.loading import load_quantized
from sigmaquant.lowering import lower
from sigmaquant.lowering.executor import encode
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.report import checkpoint_digest, refresh_report
from sigmaquant.runs import NullProgress, Progress, RunFiles, task
from sigmaquant.runs.atomic import storage_error, write_text_atomic

log = logging.getLogger("sigmaquant")

FOLDER = "export"
REPORT = "verification.json"


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
        data: what to verify on, as for `quantize`; of the targets only the kind matters, class or value.
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
        StorageError: the disk is full, or the folder is not writable.
    """
    names = _known(to)
    network, reference, context = _loaded(model, run, data, examples)
    options = options or ExportOptions()
    folder = Path(run) / FOLDER if out is None else Path(out)
    paths = {name: folder / TARGETS[name].file for name in names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as staging:  # all of them, or none
            for name in names:
                TARGETS[name].write(network, reference.model, Path(staging) / TARGETS[name].file, options)
            for path in paths.values():
                if path.is_dir():
                    shutil.rmtree(path)
                (Path(staging) / path.name).replace(path)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(folder, error, "The export is not complete.") from error
    return _verified(paths, reference, network, context, folder, Path(run), dict.fromkeys(paths, options), progress)


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
    network, reference, context = _loaded(model, run, data, examples)
    folder = next(iter(paths.values())).parent
    return _verified(paths, reference, network, context, folder, run, _read_options(folder, paths), progress)


def _loaded(
    model: nn.Module, run: str | Path, data: Any, examples: int | None
) -> tuple[QuantizedNetwork, Reference, Source]:
    """A run's network, what its files are compared with, and what they need to run."""
    inputs, batches, targets = _inputs(data, examples)
    model = read_copy(model).cpu().eval()  # the user's stays as it is
    network = load_quantized(model, inputs, run)
    reference = Reference(lower(network), batches, targets=targets)
    edge = reference.model.edges[reference.model.inputs[0]]
    return network, reference, Source(model, inputs, edge)


def _read_options(folder: Path, names: Iterable[str]) -> dict[str, ExportOptions]:
    """How each of a folder's files was written, as far as that is known."""
    options = dict.fromkeys(names, ExportOptions())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for item in json.loads((folder / REPORT).read_text(encoding="utf-8"))["artifacts"]:
            if item["target"] in options:
                options[item["target"]] = ExportOptions(**item["options"])
    return options


def _known(to: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(to))
    for name in names:
        if name not in TARGETS:
            raise ExportError(f"there is no kind of file {name!r}. {near_matches(name, TARGETS)}")
    if not names:
        raise ExportError(f"no kind of file was asked for. Give at least one of {', '.join(TARGETS)}.")
    return names


def _inputs(data: Any, examples: int | None) -> tuple[tuple[Tensor, ...], list[Tensor], Tensor | None]:
    """An example, all inputs, and the first batch's targets where they are tensors."""
    found: DataSource = as_source(data, batch_size=100, name="verification data")
    if examples is not None:
        found = found.take(examples)
    example = found.example()
    if isinstance(example, tuple):
        raise ExportError("only models with one input can be verified.")
    batches = list(found.batches())
    targets = batches[0][1].cpu() if batches and isinstance(batches[0][1], Tensor) else None
    return (example[:2].cpu(),), [inputs.cpu() for inputs, _ in batches if isinstance(inputs, Tensor)], targets


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
    reference: Reference,
    network: QuantizedNetwork,
    source: Source,
    folder: Path,
    run: Path,
    options: Mapping[str, ExportOptions],
    progress: Progress | None,
) -> tuple[Verification, ...]:
    progress = progress or NullProgress()
    plan = network.plan
    assert plan is not None, "a loaded network has one"
    ideal = IdealCosts(network.graph).cost(plan).total_bytes
    one = reference.batches[0][:1]
    with torch.no_grad():
        float_ms = latency_ms(source.model, one)
    verdicts = []
    with task(progress, "verifying", len(paths)):
        for name, path in paths.items():
            verdict = _verify(name, path, reference, source, options[name], ideal, float_ms)
            log.info("%s: decided alike %.4f %s", path, verdict.agreement.decisions, "" if verdict.passed else "FAILED")
            verdicts.append(verdict)
            progress.advance(1)
    digest = checkpoint_digest(RunFiles(run))
    document = {
        "examples": reference.examples,
        "checkpoint_sha256": digest,
        "artifacts": [
            *({**verdict.to_dict(), "options": asdict(options[verdict.target])} for verdict in verdicts),
            *_others(folder, paths, digest),
        ],
    }
    write_text_atomic(folder / REPORT, json.dumps(document, indent=2, default=str) + "\n")
    if folder.resolve() == (run / FOLDER).resolve():  # files elsewhere are not in the run's report
        refresh_report(run)
    return tuple(verdicts)


def _others(folder: Path, verified: Mapping[str, Path], digest: str | None) -> list[dict[str, Any]]:
    """Earlier verdicts on the other files of the same network that are still there."""
    try:
        document = json.loads((folder / REPORT).read_text(encoding="utf-8"))
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


def _verify(
    name: str,
    path: Path,
    reference: Reference,
    source: Source,
    options: ExportOptions,
    ideal_bytes: int,
    float_ms: float,
) -> Verification:
    target = TARGETS[name]
    notes: tuple[str, ...] = ()
    if target.form is not None:
        plain = reference.agreement(target.runner(path, source))
        notes = (f"{100 * plain.decisions:.2f} % decided as by the reference of all other files",)
        reference = Reference(target.form(reference.model, options), reference.batches, reference.outputs)
    runner = target.runner(path, source)
    deployed = None if target.deployed is None else target.deployed(path, source)
    verdict = Verification(
        target=name,
        path=path,
        required=target.required,
        exact=target.exact,
        agreement=reference.agreement(runner),
        as_deployed=None if deployed is None else reference.agreement(deployed),
        ideal_bytes=ideal_bytes,
        real_bytes=_bytes(path),
        notes=notes,
        latency_ratio=latency_ms(deployed or runner, reference.batches[0][:1]) / float_ms if target.timed else None,
    )
    if verdict.passed:
        return verdict
    watch = _with_output(target.watch(path, source, reference.model), runner, reference)
    return replace(verdict, first_difference=reference.first_difference(watch))


def _with_output(inside: Watch, runner: Runner, reference: Reference) -> Watch:
    """What can be seen inside, and the output as it was judged."""

    def watch(x: Tensor) -> dict[str, Tensor]:
        outputs = runner(x)
        codes = encode(outputs[0] if isinstance(outputs, tuple) else outputs, reference.edge)
        return {**inside(x), reference.edge.name: codes}

    return watch


def _bytes(path: Path) -> int:
    """Bytes of a file, or of a C folder's constants in flash: its sources are text."""
    if path.is_file():
        return path.stat().st_size
    document = json.loads((path / "export.json").read_text(encoding="utf-8"))
    return int(document["weight_bytes"] + document["table_bytes"])

"""Files that cannot be used: weights, checkpoints, plans, run directories, a full disk. One message, exit code 2."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tiny
from command import BAD, MODEL, TEST, main, quantize, refused
from sigmaquant.errors import CheckpointError
from sigmaquant.runs import load_tensors, save_tensors_atomic
from sigmaquant.search.warm_start import Start


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that damage it work on a copy."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert quantize("--size", "8x", "--strategy", "uniform", "--out", path).code == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def evaluate(run: Path, model: str = MODEL) -> str:
    return refused(main("evaluate", run, "--model", model, "--data", TEST))


# -- weights


class Exploit:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploited",)


def weights(path: Path) -> str:
    return refused(quantize("--size", "8x", "--weights", path, model=f"{tiny.HERE}:untrained"))


def test_weights_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no file missing.safetensors. Check the path." in weights(Path("missing.safetensors"))
    Path("p.pt").write_bytes(pickle.dumps({"weight": Exploit()}, protocol=2))
    assert "a pickle with Python objects inside" in weights(Path("p.pt"))
    assert not Path("exploited").exists()
    Path("cut.safetensors").write_bytes(b"\x00\x01")
    assert "is no safetensors file, or it is cut short or damaged" in weights(Path("cut.safetensors"))
    tensors = tiny.trained().state_dict()
    save_file({**tensors, "9.weight": torch.zeros(6, 200)}, "shape.safetensors")
    message = weights(Path("shape.safetensors"))
    assert "shape.safetensors does not fit" in message
    assert "size mismatch for 9.weight" in message
    save_file({key: value for key, value in tensors.items() if key != "9.bias"}, "lacks.safetensors")
    assert "it lacks '9.bias' (1 in all)" in weights(Path("lacks.safetensors"))
    save_file({**tensors, "fc.weight": torch.zeros(1)}, "more.safetensors")
    assert "it has the unknown 'fc.weight' (1 in all)" in weights(Path("more.safetensors"))


def test_good_weights_of_both_kinds_are_the_same(tmp_path: Path) -> None:
    tensors = tiny.trained().state_dict()
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        inspected = main("inspect", f"{tiny.HERE}:untrained", "--weights", tmp_path / name, "--input-shape", "1x8x8")
        assert inspected == main("inspect", MODEL, "--input-shape", "1x8x8")


# -- finished runs


def test_damaged_checkpoints(run: Path) -> None:
    path = run / "checkpoint.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    assert "is no safetensors file, or it is cut short or damaged" in evaluate(run)
    path.unlink()
    assert f"there is no file {path}" in evaluate(run)
    (run / "result.json").unlink()  # a result knows its checkpoint, whatever that is
    save_file({"x": torch.ones(1)}, path)
    assert "is no checkpoint of this program: its metadata do not say so." in evaluate(run)


def change_tensor(path: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    tensors, metadata = load_tensors(path)
    save_tensors_atomic(path, {**tensors, name: change(tensors[name])}, metadata)


def test_a_checkpoint_with_other_numbers(run: Path) -> None:
    path = run / "checkpoint.safetensors"
    whole = path.read_bytes()
    change_tensor(path, "3.weight", lambda weight: (weight.view(torch.int32) ^ (0x7F << 24)).view(torch.float32))
    message = evaluate(run)
    assert f"{path} has changed since it was saved (its SHA-256 differs). Restore it from a backup, or" in message
    with pytest.raises(CheckpointError, match="has changed since it was saved"):
        Start.of(run)
    assert quantize("--size", "8x", "--strategy", "uniform", "--out", run, "--resume").code == 0
    assert path.read_bytes() == whole
    (run / "result.json").unlink()
    change_tensor(path, "3.weight", lambda weight: weight * torch.nan)
    assert "the checkpoint is damaged: '3.weight' is not finite everywhere." in evaluate(run)


def test_a_checkpoint_of_another_run(run: Path, tmp_path: Path) -> None:
    assert quantize("--size", "4x", "--strategy", "uniform", "--post-training", "--out", tmp_path / "other").code == 0
    shutil.copy(tmp_path / "other" / "checkpoint.safetensors", run)
    assert "has changed since it was saved" in evaluate(run)
    (run / "result.json").unlink()
    assert "was made under another plan than" in evaluate(run)


def test_a_run_of_another_model(run: Path) -> None:
    message = evaluate(run, model=f"{BAD}:Speechless")
    assert "the model does not run on the example inputs" in message
    assert "which the model does not have" in evaluate(run, model=f"{BAD}:small")
    assert "the plan belongs to another model (fingerprint" in evaluate(run, model=f"{BAD}:narrow")


def test_damaged_plans(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    for change, message in (
        ({"weights": {**plan["weights"], "33": 8}}, "names '33', which the model does not have. Did you mean '3'?"),
        ({"weights": {**plan["weights"], "3": 1}}, "weight '3': bitwidth 1 is not one of 2..8."),
        ({"weights": {"3": 8}}, "the plan gives no bitwidth for 3 layer(s): '0', '5', '9'."),
        ({"schema": "other"}, "this is no bitwidth plan: its key 'schema' is not 'sigmaquant.plan'."),
        ({"version": 99}, "the plan has version 99, this program reads 1 to 3."),
        ({"weights": {**plan["weights"], "3": 3}}, "was made under another plan than"),
    ):
        changed = json.dumps({**plan, **change})
        (run / "plan.json").write_text(changed)
        assert message in evaluate(run)
    (run / "plan.json").write_text("{")
    assert "plan.json cannot be read" in evaluate(run)


def test_a_changed_state_is_not_resumed(run: Path) -> None:
    state = next(run.glob("state-*.safetensors"))
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(bytes(data))
    message = refused(quantize("--size", "8x", "--strategy", "uniform", "--out", run, "--resume"))
    assert "has changed since it was saved (its SHA-256 differs)" in message


@pytest.mark.parametrize("command", ["evaluate", "compare"])
@pytest.mark.parametrize("change", [{"settings": 3}, {"budget": "8x"}])
def test_damaged_configurations(run: Path, command: str, change: dict[str, object]) -> None:
    document = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**document, "config": {**document["config"], **change}}))
    given = ("--model", MODEL, "--data", TEST) if command == "evaluate" else (run,)
    assert f"config.json is damaged, at '{next(iter(change))}': " in refused(main(command, run, *given))


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_no_run_directory(command: str, tmp_path: Path) -> None:
    given = ("--model", MODEL, "--data", TEST) if command == "evaluate" else (tmp_path,)
    assert "has no config.json: it is no run directory" in refused(main(command, tmp_path / "nothing", *given))


def test_compare_needs_finished_whole_runs(run: Path) -> None:
    assert "compare needs two or more run directories." in refused(main("compare", run))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "seconds": result["seconds"] + 1}))
    assert "result.json has changed since it was written" in refused(main("compare", run, run))
    del result["document_sha256"]  # as of an earlier release
    for changes, key in (
        ({"cost": {}}, "cost.weight_bytes"),
        ({"scores": {}}, "scores.validation"),
        ({"weights": [1]}, "weights"),
        ({"seconds": "x"}, "seconds"),
    ):
        (run / "result.json").write_text(json.dumps({**result, **changes}))
        assert f"result.json is damaged, at '{key}': " in refused(main("compare", run, run))
    (run / "result.json").unlink()
    assert "is not finished. Continue it with: sigmaquant quantize" in refused(main("compare", run, run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --data or --input-shape, so that the model can be traced."),
        (("--data", TEST, "--input-shape", "1x8x8"), "give either --data or --input-shape"),
        (("--input-shape", "1xx8"), "--input-shape '1xx8' is no shape, like 3x32x32."),
        (("--input-shape", "99999999x99999999"), "have 19,999,999,600,000,002 values, which do not fit into memory."),
        (("--input-shape", "9" * 30), "which do not fit into memory. Check the shape."),
        (("--input-shape", "3x8x8"), "the model does not run on the example inputs [(2, 3, 8, 8)]"),
        (("--input-shape", "1x8x8", "--bitwidths", "1"), "bitwidths: bitwidth 1 is not one of 2..8."),
        (("--input-shape", "1x8x8", "--sigma", "row"), "σ has no variant 'row'."),
    ],
)
def test_inspect_refuses(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(main("inspect", MODEL, *arguments))


# -- run directories


def test_run_directories_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    def out(path: Path, *more: str) -> str:
        return refused(quantize("--size", "8x", "--strategy", "uniform", "--out", path, *more))

    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    for more in ((), ("--resume",), ("--overwrite",)):
        assert "is not empty and holds no run (it has 'thesis.tex')." in out(tmp_path / "foreign", *more)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]
    assert "thesis.tex is a file, not a directory." in out(tmp_path / "foreign" / "thesis.tex")
    assert "already holds a finished run. Continue it with --resume, choose another path" in out(run)
    assert "a run is either resumed or overwritten." in out(run, "--resume", "--overwrite")
    assert "another configuration: 'settings.seed' was 0 and is now 1." in out(run, "--resume", "--seed", "1")


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_run_directory_in_use(run: Path) -> None:
    script = """if True:
        import fcntl, os, sys
        with open(sys.argv[1], "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{os.getpid()}\\n")
            file.truncate()
            file.flush()
            print("locked", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", script, str(run / "run.lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    before = (run / "config.json").read_bytes()
    for more in ("--resume", "--overwrite"):
        message = refused(quantize("--size", "8x", "--strategy", "uniform", "--out", run, more))
        assert f"is already in use by process {holder.pid}. Wait until it ends" in message
    assert (run / "config.json").read_bytes() == before
    holder.communicate()
    assert quantize("--size", "8x", "--strategy", "uniform", "--out", run, "--resume").code == 0


@pytest.mark.parametrize("writes", [0, 3, 5, 12])
def test_a_full_disk_stops_the_run_which_can_then_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path, writes: int
) -> None:
    arguments = ("--size", "8x", "--strategy", "uniform", "--out")
    real, left = os.fsync, writes

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = refused(quantize(*arguments, tmp_path / "run"))
    assert "the disk is full (" in message
    assert "Free some space or write to another disk." in message
    monkeypatch.undo()
    assert quantize(*arguments, tmp_path / "run", "--resume").code == 0
    for name in ("checkpoint.safetensors", "plan.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()

"""Files that are not what was written: changed, damaged, planted, on a disk that cannot be written."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import command
import tiny
from sigmaquant.errors import ArtifactError, StorageError
from sigmaquant.export.probe import probe
from sigmaquant.export.probe.child import FAILED
from sigmaquant.workflow import exporting
from sigmaquant.workflow.exporting import digest_of, export_run, verify_run
from test_exporting import forget_digests

THERE = {
    "onnx": all(find_spec(name) for name in ("onnx", "onnxruntime")),
    "litert": find_spec("ai_edge_litert") is not None,
    "tflm": find_spec("tflite_micro") is not None,
    "c": shutil.which("gcc") is not None,
    "packed": True,
}
KINDS = [name for name, there in THERE.items() if there]
FILES = {
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "tflm": "model_micro.tflite",
    "c": "model_c",
    "packed": "model.safetensors",
}
VERIFY = ("--model", command.MODEL, "--data", command.TEST, "--examples", 40, "--quiet")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("exported") / "run"
    tiny.run("8x", post_training=True, run_dir=run)
    export_run(tiny.trained(), run, tiny.test_data(), to=KINDS, examples=40)
    return run


@pytest.fixture
def run(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(exporting, "latency_ms", lambda *_: 1.0)  # a second for each file
    shutil.copytree(exported, tmp_path / "run")
    return tmp_path / "run"


def kind(name: str) -> str:
    if not THERE[name]:
        pytest.skip(f"needs what {name} files run in")
    return name


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_the_digests_of_all_files_are_kept(run: Path) -> None:
    document = json.loads((run / "export" / "verification.json").read_text())
    found = {item["target"]: item["sha256"] for item in document["artifacts"]}
    assert found == {name: digest_of(run / "export" / FILES[name]) for name in KINDS}
    verify_run(tiny.trained(), run / "export" / "model.safetensors", tiny.test_data(), examples=20)
    again = json.loads((run / "export" / "verification.json").read_text())
    assert {item["target"]: item["sha256"] for item in again["artifacts"]} == found
    with pytest.raises(ArtifactError, match="cannot be read"):
        digest_of(run / "export" / "nothing.onnx")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_unrun(name: str, run: Path) -> None:
    path = run / "export" / FILES[kind(name)]
    changed = path / "model_weights.c" if name == "c" else path
    flip(changed, changed.stat().st_size // 2)
    found = command.main("verify", path, *VERIFY)
    assert found.code == 1
    assert "Traceback" not in found.err
    words = " ".join(found.out.split())
    assert "FAILED" in words
    assert "is not the file that was written: its SHA-256 is" in words
    document = json.loads((run / "export" / "verification.json").read_text())
    (item,) = [item for item in document["artifacts"] if item["target"] == name]
    assert item["passed"] is False
    assert item["agreement"] is None
    assert "SHA-256" in item["problem"]


@pytest.mark.parametrize("name", FILES)
def test_cut_files_end_in_one_line(name: str, run: Path) -> None:
    forget_digests(run)
    path = run / "export" / FILES[kind(name)]
    cut = path / "export.json" if name == "c" else path
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    found = command.main("verify", path, *VERIFY)
    assert found.code == 1
    assert "Traceback" not in found.err
    assert "FAILED" in found.out


@pytest.mark.parametrize("name", ["onnx", "litert", "tflm"])
def test_mutated_files_never_pass_silently_or_crash(name: str, run: Path) -> None:
    """Without a digest: refused, or its numbers are those of the network to a rounding."""
    forget_digests(run)
    path = run / "export" / FILES[kind(name)]
    whole, rng = path.read_bytes(), random.Random(0)
    outcomes = []
    for _ in range(4):
        path.write_bytes(whole)
        for _ in range(3):
            flip(path, rng.randrange(len(whole)), rng.randrange(8))
        (verdict,) = verify_run(tiny.trained(), path, tiny.test_data(), examples=20)
        outcomes.append(verdict.passed)
        assert verdict.passed or verdict.problem or verdict.first_difference or verdict.agreement is not None
    assert not all(outcomes)


def turn_a_bias(path: Path) -> None:
    """One bias of the first layer, which changes no decision."""
    import numpy as np
    import onnx

    proto = onnx.load(str(path))
    stored = next(t for t in proto.graph.initializer if t.name.startswith("0.") and t.data_type == 6)  # int32
    values = onnx.numpy_helper.to_array(stored).copy()
    values.reshape(-1)[0] += int(0.3 * np.abs(values).max())
    stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    path.write_bytes(proto.SerializeToString())


def test_without_a_digest_codes_decide(run: Path) -> None:
    """A number that is changed a little leaves the decisions as they are."""
    path = run / "export" / FILES[kind("onnx")]
    forget_digests(run)
    (right,) = verify_run(tiny.trained(), path, tiny.test_data(), examples=40)
    assert right.passed
    assert right.codes is not None
    assert right.codes.activations >= 4
    assert "no digest of it is known" in right.notes[-1]
    turn_a_bias(path)
    (wrong,) = verify_run(tiny.trained(), path, tiny.test_data(), examples=40)
    assert wrong.agreement is not None
    assert wrong.agreement.decisions == 1, "decisions alone would let it pass"
    assert not wrong.passed
    assert wrong.first_difference.startswith("activation '2'")


def test_a_planted_source_does_not_run(run: Path, tmp_path: Path) -> None:
    folder = run / "export" / FILES[kind("c")]
    ran = tmp_path / "ran"
    (folder / "planted.c").write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void f(void)\n"
        f'{{\n    FILE *file = fopen("{ran}", "w");\n    fclose(file);\n}}\n'
    )
    (verdict,) = verify_run(tiny.trained(), folder, tiny.test_data(), examples=20)
    assert verdict.passed
    assert not ran.exists()


def test_a_read_only_disk_still_gets_its_verdict(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "export" / "verification.json").read_text()

    def refused(path: Path, text: str) -> None:
        raise StorageError(f"could not write {path}: read-only file system.") from OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(exporting, "write_text_atomic", refused)
    path = run / "export" / "model.safetensors"
    found = command.main("verify", path, *VERIFY)
    assert found.code == 0
    assert "verified" in found.out
    assert "the verdict is not kept" in found.err
    assert (run / "export" / "verification.json").read_text() == before
    with pytest.raises(StorageError):
        export_run(tiny.trained(), run, tiny.test_data(), to=("packed",), examples=20)


# -- the process that may crash ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx", "litert", "tflm"])
def test_whole_files_pass_the_probe(name: str, exported: Path) -> None:
    probe(kind(name), exported / "export" / FILES[name])


@pytest.mark.parametrize("name", ["onnx", "litert", "tflm"])
def test_no_file_at_all(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing of the kind" * 40)
    with pytest.raises(ArtifactError, match="is damaged"):
        probe(kind(name), tmp_path / "x")


CHILDREN: dict[str, tuple[str, str]] = {
    "crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it crashes the runtime (SIGSEGV)"),
    "exit": ("raise SystemExit(77)", "it crashes the runtime (exit code 77)"),
    "error": (f"print('Fail: what it says'); raise SystemExit({FAILED})", "is damaged: Fail: what it says"),
    "hang": ("import time; time.sleep(60)", "takes longer than 1 s"),
}


@pytest.mark.parametrize("what", CHILDREN)
def test_what_becomes_of_a_child(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sigmaquant.export.probe as module

    code, said = CHILDREN[what]
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ArtifactError) as caught:
        probe("onnx", tmp_path / "model.onnx", seconds=1 if what == "hang" else 60)
    assert said in str(caught.value)


def test_a_crash_is_a_verdict(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(runtime: str, path: Path) -> None:
        raise ArtifactError(f"{path} is damaged: it crashes the runtime (SIGSEGV).")

    kind("onnx")
    monkeypatch.setattr(exporting, "probe", crashes)
    forget_digests(run)
    verdicts = verify_run(tiny.trained(), run, tiny.test_data(), examples=20)
    passed: dict[str, Callable[[], bool] | bool] = {verdict.target: verdict.passed for verdict in verdicts}
    assert passed == {name: name in ("c", "packed") for name in KINDS}

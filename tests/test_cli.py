"""The command line from outside: what is printed where, exit codes, and an interrupt."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sigmaquant
import tiny
from command import MODEL, QUICK, SINGLE, TEST, TRAIN, VALIDATION, main, quantize, refused
from sigmaquant.cli.common import print_json, print_line, print_parts
from sigmaquant.errors import StorageError
from sigmaquant.units import format_bytes

NOISY = tiny.HERE.with_name("noisy.py")
FACTORIES = {name: f"{NOISY}:{name}" for name in ("trained", "train_data", "validation_data", "test_data")}


def environment() -> dict[str, str]:
    folders = [str(Path(sigmaquant.__file__).parents[1]), str(tiny.HERE.parent), os.environ.get("PYTHONPATH", "")]
    inherited = {
        key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"
    }  # C's buffer would go too
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, folders)), "OMP_NUM_THREADS": "1"}


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The program itself, in a process of its own."""
    command = [sys.executable, "-m", "sigmaquant", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """Standard output as the one JSON document that it must be."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two finished runs: one by the program with --json and a solver, one in this process with tables."""
    folder = tmp_path_factory.mktemp("runs")
    data = ("--train", FACTORIES["train_data"], "--val", FACTORIES["validation_data"], "--test", FACTORIES["test_data"])
    solver = program(
        *("quantize", FACTORIES["trained"], *data, "--size", "7x", "--strategy", "ilp", *QUICK),
        *("--out", folder / "ilp", "--json"),
    )
    search = main(
        *("quantize", MODEL, "--train", TRAIN, "--val", VALIDATION, "--test", TEST, "--size", "7x", *QUICK),
        *("--accuracy", "-5 %", "--bops", "30x", "--pin", "0=6", "--allow", "9=2,4", "--out", folder / "sigma"),
    )
    return {"folder": folder, "solver": solver, "search": search}


def test_quantize_prints_one_json_document_whatever_else_prints(runs: dict[str, Any]) -> None:
    result = document(runs["solver"])
    assert result["run"] == str(runs["folder"] / "ilp")
    assert result["status"] == "met"
    written = json.loads((runs["folder"] / "ilp" / "result.json").read_text())
    assert {key: value for key, value in result.items() if key != "run"}.items() <= written.items()
    for line in ("python prints this", "the system prints this", "C prints this, as solvers do"):
        assert line in runs["solver"].stderr


def test_progress_is_plain_lines_on_standard_error_where_there_is_no_terminal(runs: dict[str, Any]) -> None:
    printed = runs["solver"].stderr
    assert "float network: begins\n" in printed
    assert "final training: done after" in printed
    assert "\x1b" not in printed
    assert "\r" not in printed
    assert "final training: done after" in runs["search"].err
    assert "begins" not in runs["search"].out


def test_quantize_prints_tables_and_where_the_files_are(runs: dict[str, Any]) -> None:
    search = runs["search"]
    assert search.code == 0
    assert "Budget met" in search.out
    assert "3.weight" in search.out
    assert "not quantized because" in search.out
    assert f"Files: {runs['folder'] / 'sigma'}" in search.out
    assert "\x1b" not in search.out
    plan = json.loads((runs["folder"] / "sigma" / "plan.json").read_text())["weights"]
    assert plan["0"] == 6
    assert plan["9"] in (2, 4)


def test_evaluate_reproduces_the_test_accuracy_exactly(runs: dict[str, Any]) -> None:
    scores = document(
        program(
            *("evaluate", runs["folder"] / "ilp", "--model", FACTORIES["trained"]),
            *("--data", FACTORIES["test_data"], "--json"),
        )
    )
    result = json.loads(runs["solver"].stdout)
    assert scores == {
        "run": str(runs["folder"] / "ilp"),
        "metric": "top1",
        "quantized": result["scores"]["test"],
        "float": result["float_scores"]["test"],
        "examples": 150,
    }
    table = main("evaluate", runs["folder"] / "sigma", "--model", MODEL, "--data", TEST)
    test = json.loads((runs["folder"] / "sigma" / "result.json").read_text())["scores"]["test"]
    assert table.code == 0
    assert f"{test:.4f}" in table.out


def test_inspect_shows_every_layer(runs: dict[str, Any]) -> None:
    report = document(program("inspect", FACTORIES["trained"], "--data", FACTORIES["test_data"], "--json"))
    assert [layer["name"] for layer in report["layers"]] == ["0", "3", "5", "9"]
    assert [layer["elements"] for layer in report["layers"]] == [72, 576, 864, 1152]
    assert all(list(layer["divergence"]) == ["2", "4", "6", "8"] for layer in report["layers"])
    table = main("inspect", MODEL, "--input-shape", "1x8x8", "--bitwidths", "3")
    assert table.code == 0
    for part in ("4 layers, fingerprint", report["fingerprint"], "D(3)", "bytes at 3", "Not quantized"):
        assert part in table.out


def test_compare_shows_runs_side_by_side(runs: dict[str, Any]) -> None:
    paths = [runs["folder"] / name for name in ("ilp", "sigma")]
    rows = document(program("compare", *paths, "--json"))
    assert [row["run"] for row in rows] == [str(path) for path in paths]
    assert [row["config"]["settings"]["strategy"] for row in rows] == ["ilp", "sigma"]
    table = main("compare", *paths)
    assert table.code == 0
    assert "Weight bits" in table.out


def test_compare_shows_the_uniform_control_beneath_its_run(tmp_path: Path) -> None:
    for name, more in (("with", ("--control",)), ("without", ())):
        done = quantize("--size", "6x", *more, "--post-training", "--out", tmp_path / name, model=SINGLE)
        assert done.code == 0, done.err
    paths = (tmp_path / "with", tmp_path / "without")
    rows = json.loads(main("compare", *paths, "--json").out)
    control = rows[0]["control"]
    assert rows[1]["control"] is None
    own = tmp_path / "with" / "control"
    for command in (("compare", *paths, own), ("evaluate", own, "--model", SINGLE, "--data", TEST)):
        refused = main(*command)
        assert (refused.code, "whose result has its figures beside its own. Give" in refused.err) == (2, True)
    ((layer, bits),) = control["weights"].items()
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in main("compare", *paths).out.splitlines()]
    uniform = [line for line in lines if line and line[0] == f"uniform {bits} b"]
    scores, cost = control["scores"], control["cost"]
    total = format_bytes(cost["total_bytes"])
    assert uniform == [
        [
            *(f"uniform {bits} b", "", "", "", f"{scores['validation']:.4f}", "–", ""),
            *(format_bytes(cost["weight_bytes"]), total, ""),
        ]
    ]
    assert [layer, str(rows[0]["weights"][layer]), str(bits), str(rows[1]["weights"][layer])] in lines


def test_a_budget_that_is_not_met_gives_exit_code_1_and_says_by_how_much(tmp_path: Path) -> None:
    outcome = quantize("--size", "5x", "--accuracy", "100 %", "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "Budget not met" in outcome.out
    assert "not met: accuracy," in outcome.out
    assert "WARNING: the budget is not met: accuracy is off by" in outcome.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "not met"
    assert list(result["violations"]) == ["accuracy"]
    again = quantize("--size", "5x", "--accuracy", "100 %", "--out", tmp_path / "run", "--resume", "--json")
    assert again.code == 1
    assert json.loads(again.out)["violations"] == result["violations"]


def test_warnings_are_told_once_on_standard_error_by_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> str:
        raise StorageError("no charts today")

    monkeypatch.setattr("sigmaquant.report.write.render", fails)
    run, weights = tmp_path / "sweep" / "size-6x", tmp_path / "others.pt"
    torch.save({name: 2 * tensor for name, tensor in tiny.single().state_dict().items()}, weights)
    data = ("--train", TRAIN, "--val", VALIDATION, "--post-training")
    network = ("--model", SINGLE, "--data", TEST)
    report, combined = "WARNING: the report could not be written (no", "WARNING: the combined report could not be"
    for arguments, warnings in (
        (("sweep", SINGLE, *data, "--size", "5x,6x", "--out", run.parent), {report: 2, combined: 1}),
        (("evaluate", run, *network), {}),
        (("evaluate", run, *network, "--weights", weights), {"WARNING: the float model's weights are not those": 1}),
        (("export", run, *network, "--to", "packed"), {report: 1}),
        (("verify", run, *network), {report: 1}),
    ):
        outcome = main(*arguments, "--json")
        assert outcome.code == 0, outcome.err
        json.loads(outcome.out)
        assert outcome.err.count("WARNING") == sum(warnings.values()), outcome.err
        for text, times in warnings.items():
            assert outcome.err.count(text) == times, outcome.err


def test_what_the_network_returns_is_part_of_the_run(tmp_path: Path) -> None:
    arguments = ("--size", "6x", "--post-training", "--out", tmp_path / "run")
    assert quantize(*arguments, "--outputs", "values", model=SINGLE).code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["settings"]["outputs"] == "values"
    said = refused(quantize(*arguments, "--resume", model=SINGLE))
    assert "'settings.outputs' was 'values' and is now 'auto'" in said
    assert "Did you mean 'values'" in refused(quantize(*arguments, "--outputs", "valeus", "--resume", model=SINGLE))


def test_overwrite_discards_the_old_run(tmp_path: Path) -> None:
    for more in ((), ("--overwrite", "--seed", "1")):
        outcome = quantize("--size", "6x", "--strategy", "random", "--post-training", "--out", tmp_path / "r", *more)
        assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "r" / "config.json").read_text())["config"]
    assert config["settings"]["seed"] == 1


def test_a_control_is_shown_beside_the_network() -> None:
    for more, said in (((), "b, same training"), (("--post-training",), "b ")):
        outcome = quantize("--size", "6x", "--control", *more, model=SINGLE)
        assert outcome.code == 0
        assert f"uniform 4 {said}" in outcome.out or f"uniform 5 {said}" in outcome.out
        assert ("same training" in outcome.out) == (not more)


def test_a_defect_is_no_result_and_leaves_the_directory_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigmaquant.workflow.job.Driver", lambda *_, **__: 1 / 0)
    outcome = quantize("--size", "8x", "--out", tmp_path, model=SINGLE)
    assert outcome.code not in (0, 1, 2)
    assert "ZeroDivisionError" in outcome.err
    assert "error: this is a defect." in outcome.err
    assert not (tmp_path / "config.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("printed", [print_json, print_line, print_parts])
def test_results_that_cannot_be_printed(printed: Callable[[str], None]) -> None:
    with (
        contextlib.suppress(OSError),  # closing fails, too
        Path("/dev/full").open("w") as full,
        contextlib.redirect_stdout(full),
        pytest.raises(StorageError, match="no space left on device"),
    ):
        printed("text")


def test_version() -> None:
    assert main("--version").out == f"sigmaquant {sigmaquant.__version__}\n"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 100
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_says_how_to_go_on_and_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "run"
    arguments = ["quantize", MODEL, "--train", TRAIN, "--val", VALIDATION, "--size", "8x", "--epochs", "2000"]
    arguments += ["--cycle-examples", "100", "--batch-size", "50", "--max-cycles", "1", "--out", str(path), "--quiet"]
    command = [sys.executable, "-m", "sigmaquant", *arguments]
    # A job in the background ignores interrupts, and so do its children; this one must not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(path / "state.json", process)
    in_use = main(*arguments, "--resume")
    assert in_use.code == 2
    assert f"already in use by process {process.pid}" in in_use.err
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip() == f"stopped. Continue with the same command and --resume; the run is in {path}."
    assert tiny.state(path)["step"] >= 1

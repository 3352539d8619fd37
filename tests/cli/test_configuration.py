"""Options from files, and the file that repeats a run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from command import MODEL, QUICK, SINGLE, TRAIN, VALIDATION, main, refused
from sigmaquant.cli import app
from sigmaquant.cli.panels import EXAMPLES, PANELS, without_panel
from sigmaquant.runs import RunDirectory
from sigmaquant.runs.beginnings import told_of_beginnings
from sigmaquant.sweeping.files import SweepDirectory
from sigmaquant.workflow.job import Job

GIVEN = ("--train", TRAIN, "--val", VALIDATION, "--post-training", *QUICK)


def test_a_run_is_repeated_from_its_file_and_the_command_line_comes_first(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("a[/b]", "again", "other"))
    done = main(
        "quantize", MODEL, *GIVEN, "--size", "7x", "--pin", "0=8", "--allow", "3=4,6", "--quiet", "--out", first
    )
    assert done.code == 0, done
    text = (first / "command.toml").read_text()
    assert f"--config '{first}/command.toml' --out ANOTHER" in text
    values = tomllib.loads(text)
    assert values == {
        "model": MODEL,
        "train": TRAIN,
        "val": VALIDATION,
        "size": "7x",
        "pin": ["0=8"],
        "allow": ["3=4,6"],
        "post-training": True,
        "epochs": 0.5,
        "cycle-examples": 100,
        "max-cycles": 1,
        "batch-size": 50,
    }
    assert main("quantize", "--config", first / "command.toml", "--out", again, "--quiet").code == 0
    for name in ("plan.json", "config.json"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    assert tomllib.loads((again / "command.toml").read_text()) == values
    done = main("quantize", "--config", first / "command.toml", "--size", "6x", "--out", other, "--quiet", "--json")
    assert (
        json.loads(done.out)["limits"]["size_bytes"]
        > json.loads((first / "result.json").read_text())["limits"]["size_bytes"]
    )


def test_a_killed_run_has_its_command_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment that the folder is the run's: what comes then may be a SIGKILL, here it is an exception."""
    seen: list[str] = []

    def killed(*_: object, run_dir: Path, **__: object) -> None:
        with RunDirectory(run_dir, config={"a": 1}):
            seen.append((Path(run_dir) / "command.toml").read_text())
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "run", killed)
    done = main("quantize", SINGLE, *GIVEN, "--size", "6x", "--out", tmp_path / "run", "--quiet")
    assert done.code == 130
    assert tomllib.loads(seen[0])["size"] == "6x"
    sweep = tmp_path / "sweep"
    with (
        told_of_beginnings(lambda path: seen.append(str(path))),
        SweepDirectory(sweep, {"b": 2}, resume=False, overwrite=False) as folder,
    ):
        folder.begin([])
        assert seen[-1] == str(sweep)


def test_options_from_yaml_are_those_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    lines = (f"model: {MODEL}", f"train: {TRAIN}", f"val: {VALIDATION}", "size: 7x", "pin: ['0=8']",
             "post-training: true",
             "epochs: 0.5", "cycle-examples: 100", "max-cycles: 1", "batch-size: 50")  # fmt: skip
    file.write_text("\n".join(lines))
    assert main("quantize", "--config", file, "--out", tmp_path / "run", "--quiet").code == 0
    values = tomllib.loads((tmp_path / "run" / "command.toml").read_text())
    assert (values["size"], values["pin"], values["post-training"], values["epochs"]) == ("7x", ["0=8"], True, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: [8x", "is no YAML"),
        ("- size", "it is no mapping"),
        ("sise: 8x", "unknown option 'sise'"),
        ("1: 2", "no mapping"),
    ],
)
def test_yaml_that_is_no_list_of_options_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "options.yml"
    file.write_text(text)
    assert message in refused(main("quantize", "--config", file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sise = "8x"', "has the unknown option 'sise'. Did you mean 'size'"),
        ('config = "x"', "has the unknown option 'config'"),
        ("size = { a = 1 }", "'size' is no value of an option"),
        ("pin = [[1]]", "'pin' is no value of an option"),
        ("size = [1]", "'size' is no value of an option"),
        ("size = ", "is no TOML"),
        ("x = " + "[" * 5000, "is no TOML"),
        ("size = 1e9999999999", "is not a number"),
        ("epochs = 'two'", "Invalid value"),
        ("strategy = 'gredy'", "Did you mean 'greedy'"),
        ("\ufeff", "is no TOML"),
    ],
)
def test_files_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text)
    size = () if "size" in text else ("--size", "8x")
    assert re.search(message, refused(main("quantize", SINGLE, *GIVEN[:4], *size, "--config", path)))


def test_no_file(tmp_path: Path) -> None:
    assert "cannot be read: no such file" in refused(main("quantize", SINGLE, "--config", tmp_path / "no.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in refused(main("quantize", SINGLE, "--config", tmp_path / "binary.toml"))


def test_every_option_has_its_panel_and_every_verb_three_examples_that_parse() -> None:
    program = typer.main.get_command(app)
    verbs = {name: verb for name, verb in program.commands.items() if name != "hardware"}  # type: ignore[attr-defined]
    assert EXAMPLES.keys() == verbs.keys()
    for name, verb in verbs.items():
        found = [
            parameter for parameter in without_panel(verb) if parameter not in ("to", "name", "onnx_form", "inputs")
        ]
        assert set(found) <= {"model", "pack", "logits", "examples", "sigma", "bitwidths", "hardware", "files"}, name
        help_text = main(name, "--help").out
        assert len(EXAMPLES[name]) == 3
        for example in EXAMPLES[name]:
            words = shlex.split(example)
            assert words[:2] == ["sigmaquant", name]
            options = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in words if word.startswith("--")} <= options
            assert words[2] in help_text
    text = main("quantize", "--help").out
    assert all(f"─ {panel} ─" in text for panel in PANELS)


@pytest.mark.parametrize("name", ["net.pt", "net.h5", "net.onnx", "net.pth", "net.keras"])
def test_files_given_as_models_say_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (None, b"", b"PK\x03\x04 no such thing", bytes(200)):
        if content is not None:
            Path(name).write_bytes(content)
        message = refused(main("inspect", name, "--input-shape", "1x8x8"))
        assert name in message
        assert message.endswith(".")

"""How the program ends where its output cannot be written, or not all of it, or memory does not do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sigmaquant
from command import Outcome, main, quantize, refused
from sigmaquant.cli import app
from sigmaquant.cli.start import out_of_memory
from sigmaquant.cli.verbs import EXAMPLES, OPTIONS, VERBS
from sigmaquant.errors import DataError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


def shell(command: str, **environment: str) -> Outcome:
    """`command` with ``PROGRAM`` replaced, as a user's shell runs it."""
    program = f"{sys.executable} -m sigmaquant"
    source = str(Path(sigmaquant.__file__).parents[1])
    done = subprocess.run(
        ["bash", "-c", command.replace("PROGRAM", program)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": source, **environment},
        timeout=60,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("PROGRAM --help > /dev/full", 2, "error: standard output cannot be written: no space left on device.\n"),
        ("PROGRAM --help >&-", 2, "error: standard output cannot be written: bad file descriptor.\n"),
        ("PROGRAM --version >&-", 2, "error: standard output cannot be written: bad file descriptor.\n"),
        ("PROGRAM --help 2>&- <&-", 0, ""),
        ("PROGRAM --help | true; sleep 0.1; exit ${PIPESTATUS[0]}", (0, 141), ""),
        ("mkfifo f; (exec 3<f; exec 3<&-) & exec 4>f; wait; PROGRAM --help >&4", 141, ""),
        ("mkfifo f; (exec 3<f; exec 3<&-) & exec 4>f; wait; PROGRAM hardware list >&4", 141, ""),
        ("mkfifo f; (exec 3<f; exec 3<&-) & exec 4>f; wait; PROGRAM hardware --help >&4", 141, ""),
    ],
)
def test_output_that_cannot_be_written(command: str, code: int | tuple[int, ...], message: str, tmp_path: Path) -> None:
    done = shell(f"cd {tmp_path}; {command}")
    assert done.code in (code if isinstance(code, tuple) else (code,)), done
    assert done.err == message


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_in_other_encodings(encoding: str) -> None:
    done = shell("PROGRAM hardware show int8-sg13g2", PYTHONIOENCODING=encoding)
    assert done.code == 0, done.err
    assert ("um^2" in done.out) == (encoding == "ascii")
    assert "int8-sg13g2" in done.out


@pytest.mark.parametrize("name", ["a[lr=0.1]:smile:", "σ [/b]"])
def test_paths_are_printed_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path(name)
    done = quantize("--size", "6x", "--post-training", "--out", out)
    assert done.code == 0, done
    assert done.out.endswith(f"\nFiles: {out}\n")
    assert name in main("compare", out, out).out
    assert main("report", out).out.startswith(f"Report: {out}/report.html\n")


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    assert quantize("--size", "6x", "--post-training", "--out", out, "--export", "packed").code == 0
    for verb in ("report", "compare"):
        assert main(verb, *[out] * (1 + (verb == "compare"))).code == 0
    assert "caf\\\\xe9" in (out / "export" / "verification.json").read_text()
    assert "caf\\xe9" in (out / "report.html").read_text()


def test_an_interrupt_while_the_program_loads_is_quiet() -> None:
    source = str(Path(sigmaquant.__file__).parents[1])
    code = (
        "import builtins, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "from sigmaquant.cli import main; real = builtins.__import__\n"
        "def importing(name, *rest):\n"
        "    if name == 'sigmaquant.cli.program': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = importing\n"
        "import sys; sys.argv = ['sigmaquant', 'hardware', 'list']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
        timeout=60,
    )
    assert done.returncode == -signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3 TiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_does_not_do_is_told_as_such(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    def wrapped(*_: object, **__: object) -> None:
        try:
            fails()
        except Exception as cause:
            raise DataError("the model cannot run on the data") from cause

    for function in (fails, wrapped):
        monkeypatch.setattr("sigmaquant.cli.runs.quantize", function)
        message = refused(quantize("--size", "8x"))
        assert message.startswith("error: there is not enough memory")
        assert "--batch-size" in message


def test_other_errors_are_not_of_memory() -> None:
    assert out_of_memory(RuntimeError("size mismatch")) is None
    assert out_of_memory(ValueError("out of memory lane")) is None


def test_the_overview_shows_what_there_is() -> None:
    import typer

    command = typer.main.get_command(app)
    assert list(VERBS) == list(command.commands)  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    assert options == {word for words in OPTIONS for word in words.split(", ")}
    text = main("--help").out
    for word in (*VERBS, *OPTIONS, *EXAMPLES):
        assert word in text
    assert main().code == 2


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_and_version_need_no_torch(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from sigmaquant.cli import main; sys.argv = ['sigmaquant', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: print(*sorted({'torch', 'numpy', 'pydantic', 'typer'} & set(sys.modules)))"
    )
    source = str(Path(sigmaquant.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


def test_the_package_needs_no_torch_until_it_is_used() -> None:
    code = "import sys, sigmaquant; print('torch' in sys.modules); sigmaquant.Budget; print('torch' in sys.modules)"
    source = str(Path(sigmaquant.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert set(sigmaquant.__all__) <= set(dir(sigmaquant))
    assert all(getattr(sigmaquant, name) is not None for name in sigmaquant.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        sigmaquant.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("line", "found"), [("sigmaquant q", "quantize"), ("sigmaquant quantize net.py:m --si", "--size")]
)
def test_completion(line: str, found: str) -> None:
    number = len(re.split(" +", line)) - 1
    done = shell("PROGRAM", _SIGMAQUANT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(number))
    assert found in done.out.split()
    done = shell("PROGRAM", _SIGMAQUANT_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert found in done.out

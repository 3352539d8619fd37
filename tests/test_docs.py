"""The documentation is a program: its Python blocks and shell lines run, and what it names exists.

On a page, ``python`` and ``sh`` blocks run in order, a block with a title is written as a file of that name, and a
``text`` block shows what the command before it prints. ``console`` blocks do not run; their verbs and options exist.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

import command
import sigmaquant
from docs_pages import DOCS, PAGES, README, ROOT, Block, blocks, calls, command_of, lines, options_of
from sigmaquant.cli import app

FIRST = DOCS / "index.md"
MODULES = ("my_model", "my_data")
"""What the first page writes."""
NOT_RUN = ("examples.md", "changelog.md")
"""Pages made of other files, which have tests of their own."""
RUNNING = [
    page
    for page in PAGES
    if page.name not in NOT_RUN and page != FIRST and any(b.language in ("python", "sh") for b in blocks(page))
]
APPLICATION = typer.main.get_command(app)
OF_OTHERS = {"--gc-sections", "--help", "--install-completion", "--version", "--specs", "--quick", "--strict"}
"""Options of other programs that the prose names."""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load(DOCS / "hooks.py")


# -- what runs ---------------------------------------------------------------------------------------------------


def shell(line: Any, where: str) -> str:
    """Run one command line; what it printed."""
    program, *rest = line.words
    if program == "sigmaquant":
        outcome = command.main(*rest)
        assert outcome.code == line.code, f"{where}: exit code {outcome.code}\n{outcome.err}"
        return outcome.out + outcome.err
    assert line.code == 0
    if program == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            runpy.run_path(rest[0], run_name="__main__")
        return printed.getvalue()
    assert program == "make", f"{where}: nothing here runs {program!r}"
    return subprocess.run([program, *rest], check=True, capture_output=True, text=True).stdout


def run_page(page: Path) -> None:
    """All blocks of a page, in order, in the working directory."""
    names: dict[str, Any] = {"__name__": "docs"}
    printed = ""
    for number, block in enumerate(blocks(page)):
        where = f"{page.name}, block {number + 1}"
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "sh":
            printed = "".join(shell(line, f"{where}: {' '.join(line.words)}") for line in lines(block.text))
        elif block.language == "text" and printed:
            shown = set(re.findall(r"[^\W\d_]{3,}", block.text))
            missing = shown - set(re.findall(r"[^\W\d_]{3,}", printed))
            assert not missing, f"{where} shows what is not printed: {sorted(missing)}\n{printed}"
            printed = ""


def compile_firmware() -> None:
    """The file of the page on exporting, against the folder that its commands have written."""
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", "runs/first/export/model_c"]
    subprocess.run(["gcc", *flags, "-c", "firmware.c", "-o", "firmware.o"], check=True)


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("make") is None, reason="needs gcc and make")
def test_the_pages_run_in_reading_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, since a page goes on where an earlier one has ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        run_page(FIRST)
        missing = [name for name in files_of_a_run() if not (tmp_path / "runs" / "first" / name).exists()]
        assert not missing, f"{FIRST.name} names {missing}"
        for page in RUNNING:
            run_page(page)
    finally:
        for name in MODULES:
            sys.modules.pop(name, None)
    compile_firmware()


def files_of_a_run() -> list[str]:
    """Those of the first page's table."""
    table = FIRST.read_text(encoding="utf-8").partition("| file | what |")[2].partition("\n\n")[0]
    named = re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `")))
    assert "plan.json" in named
    return named


def test_every_block_has_a_kind() -> None:
    """A misspelt ``python`` would not run, and nobody would see it."""
    known = {"", "python", "sh", "console", "text", "json", "c", "yaml", "html"}
    wrong = [(page.name, block.language) for page in PAGES for block in blocks(page) if block.language not in known]
    assert not wrong


def test_running_a_page_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    for text, message in (
        ("```python\nassert 1 == 2\n```\n", None),
        ("```sh\nsigmaquant hardware show nothing\n```\n", "exit code 2"),
        ("```sh\nsigmaquant hardware list\n```\n\n```text\nelephants\n```\n", "elephants"),
        ("```sh\nrm something\n```\n", "nothing here runs 'rm'"),
    ):
        page.write_text(text)
        with pytest.raises(AssertionError, match=message):
            run_page(page)


# -- what is named -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_options_exist(page: Path) -> None:
    for words in calls(page):
        verb, found = command_of(words, APPLICATION)
        unknown = {word for word in words if re.match("--?[a-z]", word)} - options_of(found) - OF_OTHERS
        assert not unknown, f"`sigmaquant {verb}` has no {sorted(unknown)}"


def test_options_in_the_prose_exist() -> None:
    known = set(OF_OTHERS)
    for _, found in hooks.verbs(APPLICATION):
        known |= options_of(found)
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        spans = [span for span in re.findall(r"`([^`\n]+)`", prose) if not span.startswith("python ")]
        named = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", " ".join(spans)))
        assert named <= known, f"{page.name} names {sorted(named - known)}"


def test_a_wrong_verb_is_seen() -> None:
    assert command_of(("hardware", "show", "ideal"), APPLICATION)[0] == "hardware show"
    for words in (("quantise", "model"), ("hardware", "shew"), ("hardware",)):
        with pytest.raises(LookupError):
            command_of(words, APPLICATION)


def test_paths_in_the_prose_exist() -> None:
    """Files of the repository that a page names."""
    for page in PAGES:
        named = re.findall(r"`((?:src|tests|examples|benchmarks|docs)/[\w./-]+\w)`", page.read_text(encoding="utf-8"))
        missing = [name for name in named if "NNN" not in name and not (ROOT / name).exists()]
        assert not missing, f"{page.name} names {missing}"


def test_extras_exist_and_are_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    for page in [README, *PAGES]:
        text = page.read_text(encoding="utf-8")
        found = ",".join(re.findall(r"pip install \"[\w.]*\[([\w,-]+)\]\"", text))
        named = set(filter(None, found.split(",")))
        assert named <= extras, f"{page.name} names {sorted(named - extras)}"
    explained = set(re.findall(r"^\| `([\w-]+)` \|", FIRST.read_text(encoding="utf-8"), re.M))
    missing = extras - {"dev", "docs", "test"} - explained
    assert not missing, f"Getting started does not explain the extras {sorted(missing)}"


# -- the reference -----------------------------------------------------------------------------------------------

REFERENCE = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("name", [name for name in sigmaquant.__all__ if not name.startswith("_")])
def test_public_names_are_in_the_reference(name: str) -> None:
    home = getattr(sigmaquant, name).__module__
    assert {f"sigmaquant.{name}", f"{home}.{name}", home} & set(REFERENCE)


@pytest.mark.parametrize("path", REFERENCE)
def test_the_reference_names_what_exists(path: str) -> None:
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name, None)
    value = importlib.import_module(path) if value is None else value
    assert value.__doc__, f"{path} has no docstring"


# -- the site ----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags for Python objects mean nothing here."""


def navigation() -> list[str]:
    """Every page in the navigation."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    return list(pages([hooks.expanded(entry, DOCS) for entry in config["nav"]]))


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(navigation()) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_decisions_are_listed_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("002-b.md", "README.md", "001-a.md"):
        (tmp_path / "notes" / name).write_text("")
    found = hooks.expanded({"Notes": "notes/"}, tmp_path)
    assert found == {"Notes": ["notes/README.md", "notes/001-a.md", "notes/002-b.md"]}
    assert hooks.expanded({"Start": "index.md"}, tmp_path) == {"Start": "index.md"}


def test_the_command_line_is_read_from_the_program() -> None:
    text = hooks.on_page_markdown("<!-- commands -->")
    for verb, found in hooks.verbs(APPLICATION):
        section = text.partition(f"### {verb}\n")[2].partition("\n### ")[0]
        assert section, f"no section for {verb!r}"
        assert " ".join((found.help or "").split()) in section
        for name in options_of(found) - {"--help", "-h"}:
            assert f"`{name}`" in section, f"{verb!r} lacks {name}"
    quantize = text.partition("### quantize\n")[2].partition("\n### ")[0]
    assert re.search(r"^\| `--objective` \| .*`auto`, `feasible`, `smallest`, `accurate` \| `auto` \|$", quantize, re.M)
    assert "| `--train` | training data: a factory, imagefolder:DIR" in quantize


def test_every_example_is_shown() -> None:
    text = hooks.on_page_markdown((DOCS / "examples.md").read_text(encoding="utf-8"))
    for path in (ROOT / "examples").glob("own_*.py"):
        assert f"```python\n{path.read_text(encoding='utf-8')}```" in text
    with pytest.raises(FileNotFoundError):
        hooks.on_page_markdown("<!-- file: examples/nothing.py -->")


def test_the_rooms_are_read_from_the_package() -> None:
    text = hooks.on_page_markdown("<!-- rooms -->")
    rooms = dict(re.findall(r"^\| \d+ \| `(\w+)` \| (.*) \|$", text, re.M))
    source = ROOT / "src" / "sigmaquant"
    there = (path for path in source.iterdir() if path.is_dir() or path.suffix == ".py")
    assert set(rooms) == {path.stem for path in there if not path.name.startswith("_")}
    assert not [room for room, what in rooms.items() if not what], "a room without a docstring"


def test_coverage_is_read_from_the_measured_rows() -> None:
    text = hooks.on_page_markdown((DOCS / "coverage.md").read_text(encoding="utf-8"))
    assert re.search(r"^\| convolutional \| \d+ \| \d+ \(", text, re.M)
    assert text.count("\n| yolov8n |") + text.count("\n| tc-resnet8 |") >= 1


def test_the_picture_shows_rooms_that_exist() -> None:
    picture = (DOCS / "assets" / "architecture.svg").read_text(encoding="utf-8")
    names = set(re.findall(r'class="sq-name"[^>]*>([^<]+)<', picture)) - {"your network"}
    assert {"graph", "statistics", "search", "training", "lowering", "export"} <= names
    assert names <= {room for floor in hooks.floors() for room in floor}


def test_pages_that_load_from_elsewhere_are_refused() -> None:
    page = '<link rel="canonical" href="https://a.b/"><a href="https://a.b/">read</a><script src="../c.js"></script>'
    assert hooks.foreign(page) == []
    for tag in (
        '<script src="https://a.b/c.js"></script>',
        '<link rel="stylesheet" href="//a.b/c.css">',
        '<img alt="" src=https://a.b/c.png>',
    ):
        assert len(hooks.foreign(page + tag)) == 1


def test_block_reading() -> None:
    assert Block("json", "my-board.json", "") == Block("json", "my-board.json", "")
    (line,) = lines("sigmaquant quantize m.py:f \\\n    --size 8x  # exit code 1\n")
    assert line.words == ("sigmaquant", "quantize", "m.py:f", "--size", "8x")
    assert line.code == 1


def test_docstrings_of_the_house_are_understood() -> None:
    griffe = pytest.importorskip("griffe", reason="needs the extra docs")
    style = load(DOCS / "docstrings.py").HouseStyle()
    text = "Sum.\n\nArgs:\n    a, b: numbers,\n        both whole.\n\nExample:\n    >>> 1 + 1\n    2"
    function = griffe.Function("f", docstring=griffe.Docstring(text))
    style.on_object(obj=function)
    arguments = "    a: numbers,\n        both whole.\n    b: numbers,\n        both whole.\n"
    assert function.docstring.value == f"Sum.\n\nArgs:\n{arguments}\nExamples:\n    >>> 1 + 1\n    2"

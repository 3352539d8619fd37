"""What the site takes from the sources while it is built, so that it cannot lag behind them.

- the pages of a folder that ends in a slash in the navigation;
- for ``<!-- commands -->``, every verb of the command line with its options;
- for ``<!-- rooms -->``, every room of the package with the floor it stands on;
- for ``<!-- operators -->``, every operator of ``benchmarks/operators.py`` in each kind of file;
- for ``<!-- coverage -->``, what became of the networks of ``benchmarks/coverage.py``;
- for ``<!-- file: examples/… -->``, that program.

A page that would load anything from elsewhere ends the build: the site must be readable without a network.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_FILE = re.compile(r"<!-- file: (\S+\.py) -->")
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'>\s]*"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//[^"'>\s]*"""
)


def on_config(config: Any) -> Any:
    """Replace folders in the navigation by their pages."""
    config["nav"] = [expanded(entry, Path(config["docs_dir"])) for entry in config["nav"]]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables that are read from the sources."""
    tables = (
        ("<!-- commands -->", commands),
        ("<!-- rooms -->", rooms),
        ("<!-- coverage -->", coverage),
        ("<!-- operators -->", operators),
    )
    for marker, table in tables:
        if marker in markdown:
            markdown = markdown.replace(marker, table())
    return _FILE.sub(lambda match: f"```python\n{(ROOT / match[1]).read_text(encoding='utf-8')}```", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse what is loaded from elsewhere.

    Raises:
        PluginError: the page has such a thing; it ends the build.
    """
    from mkdocs.exceptions import PluginError

    found = foreign(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads {found[0]}. Keep a copy in docs/assets, or link to it instead.")
    return output


def foreign(html: str) -> list[str]:
    """Tags that load something over the network; links that a reader may follow are none."""
    return _LOADED.findall(html)


def expanded(entry: Any, docs: Path) -> Any:
    """An entry of the navigation; ``{title: "folder/"}`` becomes the folder's README and then its other pages."""
    if not isinstance(entry, dict):
        return entry
    ((title, target),) = entry.items()
    if not isinstance(target, str) or not target.endswith("/"):
        return entry
    pages = sorted((docs / target).glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
    return {title: [f"{target}{page.name}" for page in pages]}


# -- the command line --------------------------------------------------------------------------------------------


def commands() -> str:
    """One section for each verb: what it does, its arguments, its options and their defaults."""
    import typer

    from sigmaquant.cli import app

    return "\n\n".join(_command(name, command) for name, command in verbs(typer.main.get_command(app)))


def verbs(command: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb with its full name, those of groups included."""
    for name, inner in command.commands.items():
        if inner.hidden:
            continue
        if hasattr(inner, "commands"):
            yield from verbs(inner, f"{before}{name} ")
        else:
            yield f"{before}{name}", inner


def _command(name: str, command: Any) -> str:
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    options = [p for p in parameters if p.param_type_name == "option"]
    usage = " ".join(["sigmaquant", name, *(p.name.upper() + ("…" if p.nargs == -1 else "") for p in arguments)])
    lines = [f"### {name}", "", f"`{usage} [OPTIONS]`", "", " ".join((command.help or "").split()), ""]
    lines += ["| option | what | default |", "| --- | --- | --- |"]
    lines += [f"| `{p.name.upper()}` | {_cell(p.help)} | required |" for p in arguments]
    lines += [f"| {_names(p)} | {_cell(p.help)}{_choices(p)} | {_default(p)} |" for p in options]
    return "\n".join(lines)


def _names(option: Any) -> str:
    flags = "".join(f", `{name}`" for name in sorted(option.opts, key=len, reverse=True))
    return flags.removeprefix(", ") + "".join(f", `{name}`" for name in option.secondary_opts)


def _cell(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").split())


def _choices(option: Any) -> str:
    if not isinstance(option.default, Enum):
        return ""
    named = ", ".join(f"`{choice.value}`" for choice in type(option.default))
    return f"{': ' if option.help else ''}{named}"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = getattr(option.default, "value", option.default)
    if isinstance(value, bool) or value is None or value == ():
        return ("on" if value else "") if isinstance(value, bool) else ""
    return f"`{value}`"


# -- the rooms ---------------------------------------------------------------------------------------------------


def rooms() -> str:
    """A table of the package's rooms from the lowest floor to the highest, as the test of the arrows knows them."""
    source = ROOT / "src" / "sigmaquant"
    lines = ["| floor | room | what |", "| --- | --- | --- |"]
    for number, floor in enumerate(floors()):
        for room in sorted(name for name in floor if not name.startswith("_")):
            path = source / room / "__init__.py" if (source / room).is_dir() else source / f"{room}.py"
            if path.exists():
                summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
                lines.append(f"| {number} | `{room}` | {_cell(summary)} |")
    return "\n".join(lines)


def floors() -> list[set[str]]:
    """FLOORS of tests/test_imports.py."""
    tree = ast.parse((ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "FLOORS" for target in node.targets):
            return [set(floor) for floor in ast.literal_eval(node.value)]
    raise ValueError("tests/test_imports.py has no FLOORS.")


# -- coverage ----------------------------------------------------------------------------------------------------


def operators() -> str:
    """Every case of ``benchmarks/operators.py``: its integer form and what each kind of file makes of it."""
    path = ROOT / "benchmarks" / "results" / "operators.jsonl"
    lines = ["| operator | integers | ONNX | LiteRT | C |", "| --- | --- | --- | --- | --- |"]
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = row["case"].replace("_", " ")
        if row["float"]:
            lines.append(f"| {name} | float: {', '.join(row['float'])} | – | – | – |")
            continue
        cells = [row[target].partition(":")[0] for target in ("onnx", "litert", "c")]
        lines.append(f"| {name} | {row['integer']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def coverage() -> str:
    """The tables of `benchmarks/networks/tables.py` from the measured rows."""
    benchmarks = ROOT / "benchmarks"
    tables = runpy.run_path(str(benchmarks / "networks" / "tables.py"))
    return str(tables["table"](tables["read"](benchmarks / "results" / "coverage.jsonl")))

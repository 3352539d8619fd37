"""The public names are documented, in the code and for readers; so is every verb of the command line."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sigmaquant

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PUBLIC = sorted(getattr(sigmaquant, "__all__", []))


def texts() -> str:
    pages = [README, *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages if page.exists())


def test_public_names_exist_once() -> None:
    assert len(PUBLIC) == len(set(PUBLIC))
    missing = [name for name in PUBLIC if not hasattr(sigmaquant, name)]
    assert not missing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings(name: str) -> None:
    value = getattr(sigmaquant, name, None)
    if callable(value) or hasattr(value, "__path__"):
        own = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
        # A dataclass without a docstring gets its signature as one.
        assert own, f"{name} has no docstring"
        assert not own.startswith(f"{name}("), f"{name} has no docstring of its own"


@pytest.mark.skipif(not README.exists(), reason="no README yet")
@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.startswith("_")])
def test_public_names_are_in_the_documentation(name: str) -> None:
    assert re.search(rf"\b{re.escape(name)}\b", texts()), f"{name} is neither in the README nor in docs/"


def verbs(app: Any, prefix: str = "") -> Iterator[str]:
    """Every command of a typer application, with those of its groups."""
    import typer

    command = typer.main.get_command(app)
    subcommands = getattr(command, "commands", {})

    def walk(commands: dict[str, Any], before: str) -> Iterator[str]:
        for name, item in commands.items():
            if getattr(item, "hidden", False):
                continue
            inner = getattr(item, "commands", None)
            if inner:
                yield from walk(inner, f"{before}{name} ")
            else:
                yield f"{before}{name}"

    yield from walk(subcommands, prefix)


def test_verbs_are_read_from_the_real_application() -> None:
    import typer

    app, group = typer.Typer(), typer.Typer()
    app.command("search")(lambda: None)
    app.command("secret", hidden=True)(lambda: None)
    group.command("onnx")(lambda: None)
    group.command("c")(lambda: None)
    app.add_typer(group, name="export")
    assert list(verbs(app)) == ["search", "export onnx", "export c"]


@pytest.mark.skipif(importlib.util.find_spec("sigmaquant.cli") is None, reason="no command line yet")
@pytest.mark.skipif(not README.exists(), reason="no README yet")
def test_every_verb_is_in_the_readme() -> None:
    app = importlib.import_module("sigmaquant.cli").app
    readme = README.read_text(encoding="utf-8")
    found = list(verbs(app))
    assert found, "the command line has no verbs"
    missing = [verb for verb in found if not re.search(rf"\bsigmaquant {re.escape(verb)}\b", readme)]
    assert not missing, f"the README does not show: {missing}"

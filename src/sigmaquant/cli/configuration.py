"""``--config FILE``: options of a command from a TOML or YAML file, and the file beside a run that repeats it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer

from sigmaquant.errors import MissingExtraError, SigmaQuantError, StorageError, near_matches
from sigmaquant.runs.atomic import write_text_atomic
from sigmaquant.runs.beginnings import told_of_beginnings
from sigmaquant.runs.files import COMMAND

log = logging.getLogger("sigmaquant")

_HERE = ("config", "out", "resume", "overwrite", "json_output", "quiet", "help")
"""Options of one call, which say nothing about what is computed, or where its result goes."""
_LARGEST_BYTES = 1 << 20


def _read(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options: what the command line says comes first."""
    if path is None or ctx.resilient_parsing:
        return path
    known = {_key(parameter.name or ""): parameter for parameter in ctx.command.params}
    values: dict[str, Any] = {}
    for key, value in _parsed(path).items():
        name = key.replace("_", "-")
        if name not in known or known[name].name in ("config", "help"):
            raise SigmaQuantError(f"{path} has the unknown option {key!r}. {near_matches(name, known)}")
        values[str(known[name].name)] = _plain(value, f"{path}, {key!r}", several=_takes_several(known[name]))
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read,
        is_eager=True,
        help=f'TOML or YAML file with options by name, like size = "8x"; {COMMAND} beside a run repeats it',
    ),
]


def _key(name: str) -> str:
    return {"json_output": "json"}.get(name, name.replace("_", "-"))


def _takes_several(parameter: Any) -> bool:
    return bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1


def _parsed(path: Path) -> dict[str, Any]:
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    read, form, example = (_yaml, "YAML", "size: 8x") if is_yaml else (tomllib.loads, "TOML", 'size = "8x"')
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise SigmaQuantError(f"{path} is no list of options: it has more than {_LARGEST_BYTES:,} bytes.")
        return read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SigmaQuantError(f"the options {path} cannot be read: {(error.strerror or str(error)).lower()}.") from None
    except (ValueError, RecursionError) as error:  # not of that form, or no UTF-8
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deep"
        raise SigmaQuantError(
            f"{path} is no {form} ({reason}). Write a line for each option, like {example}."
        ) from None


def _yaml(text: str) -> dict[str, Any]:
    """The mapping that a YAML text is.

    Raises:
        MissingExtraError: PyYAML is not installed.
        ValueError: no YAML, or no mapping.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("Reading options from YAML", "yaml") from None
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError("it is no mapping from options to values")
    return found


def _plain(value: Any, place: str, *, several: bool) -> Any:
    """A value as the command line would have it: text, which is then read by the option's own rules, or on and off."""
    if isinstance(value, list) and several:
        return [_plain(item, place, several=False) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int | float):
        return str(value)
    raise SigmaQuantError(f"{place} is no value of an option. Give text, a number, or true and false.")


@contextlib.contextmanager
def repeatable(ctx: typer.Context, folder: Path | None) -> Iterator[None]:
    """Keep the command of a run beside it from the moment that the folder is the run's, whatever ends it."""
    if folder is None:
        yield
        return

    def keep(begun: Path) -> None:
        if begun == folder:
            write_command(ctx, folder)

    with told_of_beginnings(keep):
        yield


def write_command(ctx: typer.Context, folder: Path) -> None:
    """Write ``command.toml`` beside a run: every option that was given, here or in a file; a failure is only told."""
    given = {}
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if name in _HERE or source is None or source.name == "DEFAULT":
            continue
        given[_key(name)] = ctx.params[name]
    command = shlex.join(["sigmaquant", *sys.argv[1:]])
    lines = [
        "# This run as a command, to be repeated from the same folder:",
        f"#   sigmaquant {ctx.info_name} --config {shlex.quote(str(folder / COMMAND))} --out ANOTHER",
        *(f"# {line}" for line in ("It began as:", *(f"  {part}" for part in command.splitlines()))),
        *(f"{key} = {_toml(value)}" for key, value in given.items() if value is not None),
    ]
    try:
        write_text_atomic(folder / COMMAND, "\n".join(lines) + "\n")
    except (StorageError, UnicodeEncodeError) as error:
        log.warning("the run's command was not kept: %s", error)


def _toml(value: Any) -> str:
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = json.dumps(str(value) if isinstance(value, PurePath) else value, ensure_ascii=False)
    return re.sub(r"\x7f", r"\\u007f", text)

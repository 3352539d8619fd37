"""What makes two tasks the same: a run that is resumed has the task that it began with."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from sigmaquant.numerics import raw_bytes
from sigmaquant.tasks.task import Task

_OURS = "sigmaquant."
_SIMPLE = (bool, int, float, str, type(None))


def identity(task: Task) -> dict[str, Any]:
    """Name, metric, options and the digest of the user's own code, for JSON.

    Comments, docstrings and layout of the code do not matter. Where it has no source, as in an interactive session, its
    name alone counts.
    """
    options = {key: _plain(value) for key, value in sorted(vars(task).items())}
    found: dict[str, Any] = {
        "name": task.name,
        "metric": task.metric_name,
        "share": bool(task.share),
        "output": task.output,
        "options": {key.lstrip("_"): value for key, value in options.items() if key not in ("metric_name", "output")},
    }
    own = [kind for kind in type(task).__mro__ if not _is_ours(kind) and kind is not object]
    if own:
        found["code"] = [_code(kind) for kind in own]
    return found


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(item)) for item in value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {hashlib.sha256(raw_bytes(value)).hexdigest()[:16]}"
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if inspect.isfunction(value):
        return [_code(value), *_held(value)] if _held(value) else _code(value)
    if inspect.ismethod(value):
        return [_plain(value.__func__), _plain(value.__self__)]
    if inspect.isclass(value) or inspect.isbuiltin(value):
        return _code(value)
    simple = {key: item for key, item in getattr(value, "__dict__", {}).items() if isinstance(item, _SIMPLE)}
    own = [] if isinstance(value, nn.Module) else [_code(type(value))]
    return [type(value).__name__, *own, _plain(simple)]


def _held(function: FunctionType) -> list[Any]:
    """Numbers and texts that a function takes from where it was made, such as a threshold."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    return [item for item in (*cells, *(function.__defaults__ or ())) if isinstance(item, _SIMPLE)]


def _filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # not yet
        return False
    return True


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith(_OURS)


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """What a function does, wherever it stands in its file."""
    constants = [_compiled(item) if isinstance(item, CodeType) else item for item in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def _code(value: Any) -> str:
    """A function's or class's name, with the digest of its source where it is the user's."""
    name = getattr(value, "__qualname__", type(value).__name__)
    if _is_ours(value):
        return str(name)
    if inspect.isfunction(value) and value.__name__ == "<lambda>":  # its lines hold other code as well
        return f"{name} {hashlib.sha256(repr(_compiled(value.__code__)).encode()).hexdigest()[:16]}"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError, SyntaxError):
        return str(name)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            body[0] = ast.Pass()  # type: ignore[index]
    return f"{name} {hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]}"

"""Objects named by text: ``package.module:factory``, ``path/file.py:factory``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sigmaquant.errors import SigmaQuantError, near_matches
from sigmaquant.frontends.options import partition, read_options
from sigmaquant.tasks import Task, make_task

_FORM = "Write it as package.module:factory or path/file.py:factory."


def load_object(spec: str, what: str) -> Any:
    """The object that a text names; modules are looked for in the working directory, or in the folder of its file, too.

    Args:
        spec: ``package.module:name`` or ``path/file.py:name``.
        what: for messages, such as ``"the model"``.

    Raises:
        SigmaQuantError: no such module, file or name, or the import fails.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not name:
        raise SigmaQuantError(f"{what} {spec!r} names no factory. {_FORM}")
    module = _import(source, what)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise SigmaQuantError(f"{what}: {source} has no {name!r}. {near_matches(name, public)}")
    return getattr(module, name)


def _import(source: str, what: str) -> ModuleType:
    try:
        if not source.endswith(".py"):
            if "" not in sys.path:
                _find_modules_in(Path.cwd())
            return importlib.import_module(source)
        path = Path(source)
        if not path.is_file():
            raise SigmaQuantError(f"{what}: there is no file {source}. {_FORM}")
        _find_modules_in(path.resolve().parent)
        name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        if name in sys.modules:  # model and data often come from one file: its state is shared
            return sys.modules[name]
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None, "a .py file has a spec"
        assert found.loader is not None, "and a loader"
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except SigmaQuantError:
        raise
    except (Exception, SystemExit) as error:
        remedy = ""
        if isinstance(error, SystemExit):
            remedy = 'Put what a script does of its own under if __name__ == "__main__".'
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            named = f"{source}.".startswith(f"{error.name}.")  # by the user, and not by an import in the user's code
            remedy = _FORM if named else f"Install {error.name!r}, or put it beside the file."
        raise SigmaQuantError(
            f"{what}: {source} cannot be imported: {type(error).__name__}: {error}. {remedy}".rstrip()
        ) from error


def _find_modules_in(folder: Path) -> None:
    """As Python does for the folder of a script, and for as long: a factory may import when it is called."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def call_factory(spec: str, what: str) -> Any:
    """What the function gives that a text names; a finished object under that name as it is.

    Raises:
        SigmaQuantError: see `load_object`; or the function fails.
    """
    target = load_object(spec, what)
    if isinstance(target, nn.Module) or not callable(target):  # a finished model can be called too
        return target
    try:
        return target()
    except SigmaQuantError:
        raise
    except (Exception, SystemExit) as error:
        raise SigmaQuantError(f"{what}: the factory {spec} failed: {type(error).__name__}: {error}") from error


def load_metric(spec: str | None) -> Any:
    """The function that a text names, or the name of a metric as it is.

    Raises:
        SigmaQuantError: see `load_object`.
    """
    return load_object(spec, "the metric") if spec is not None and ":" in spec else spec


def load_task(spec: str | None) -> Any:
    """The task that a text names: a shipped one with its options, or an object of the user's.

    ``segmentation``, ``segmentation?ignored=0``, ``detection?decode=path/file.py:decode``, or ``path/file.py:NAME``,
    which is a task, a class of tasks or a function that gives one. Options whose values have a colon name objects.

    Raises:
        SigmaQuantError: see `load_object`; no such task, or options that it does not take.
    """
    if spec is None:
        return None
    name, query = partition(spec)
    if ":" not in name:
        options: dict[str, Any] = dict(read_options(query, f"the task {spec!r}"))
        for key, value in options.items():
            if isinstance(value, str) and ":" in value:
                options[key] = load_object(value, f"the task's {key}")
        return make_task(name, options)
    found = load_object(spec, "the task")
    return found if isinstance(found, Task) else call_factory(spec, "the task")

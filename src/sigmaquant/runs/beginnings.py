"""Who wants to know when a run's or a sweep's folder is its own: from then on a kill leaves something to go on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Listener = Callable[[Path], object]
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("_LISTENERS", default=())


@contextmanager
def told_of_beginnings(listener: Listener) -> Iterator[None]:
    """Call `listener` with every folder that begins inside, right after its configuration has been written."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def tell_begun(path: Path) -> None:
    """Tell those who want to know."""
    for listener in _LISTENERS.get():
        listener(path)

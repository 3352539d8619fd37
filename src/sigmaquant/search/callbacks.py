"""Telling others of every step while a run goes on: loggers such as TensorBoard's or Weights & Biases'."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sigmaquant.search.search_state import Recorder

log = logging.getLogger("sigmaquant")

Callback = Callable[[Mapping[str, Any]], object]
"""Called with each step as ``trajectory.jsonl`` has it: ``step``, ``stage``, ``move``, ``accepted``, ``accuracy``, …"""


def call_all(callbacks: Sequence[Callback], event: Mapping[str, Any]) -> None:
    """Call them one after the other; one that fails is told, and costs nobody the run."""
    for callback in callbacks:
        try:
            callback(event)
        except Exception as error:
            log.warning("a callback failed: %s: %s", type(error).__name__, error)


class Announced:
    """A recorder whose steps are also given to callbacks.

    Args:
        inner: where they are recorded.
        callbacks: see `Callback`.
    """

    def __init__(self, inner: Recorder, callbacks: Sequence[Callback]) -> None:
        self._inner, self._callbacks = inner, callbacks

    def append_step(self, step: dict[str, Any]) -> None:
        """As the inner one, then the callbacks."""
        self._inner.append_step(step)
        call_all(self._callbacks, step)

    def save_state(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """As the inner one."""
        self._inner.save_state(step, tensors, meta)

    def load_state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """As the inner one."""
        return self._inner.load_state()

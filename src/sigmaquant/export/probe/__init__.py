"""Files from elsewhere are first run in a process of their own, where a runtime may crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from sigmaquant.errors import ArtifactError
from sigmaquant.export.probe.child import FAILED, NOT_INSTALLED

__all__ = ["probe"]

SECONDS = 300.0


def probe(runtime: str, path: Path, seconds: float = SECONDS) -> None:
    """Load a file and run it once on random numbers.

    Args:
        runtime: ``"onnx"``, ``"litert"`` or ``"tflm"``.
        path: the file.
        seconds: how long that may take.

    Raises:
        ArtifactError: it does not load or run, crashes the runtime, or does not come to an end.
    """
    # By its path: the child imports the runtime alone, in a fraction of the time that this package takes.
    command = [sys.executable, str(Path(__file__).with_name("child.py")), runtime, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ArtifactError(f"{path} is damaged: its first run takes longer than {seconds:.0f} s.") from None
    if done.returncode in (0, NOT_INSTALLED):
        return
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode == FAILED and lines:
        raise ArtifactError(f"{path} is damaged: {lines[-1]}")
    raise ArtifactError(f"{path} is damaged: it crashes the runtime ({_ended(done.returncode)}).")


def _ended(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"

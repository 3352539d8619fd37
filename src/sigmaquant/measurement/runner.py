"""Running a model's file on a device through a command of the user's."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import subprocess
from pathlib import Path

from sigmaquant.errors import MeasurementError
from sigmaquant.json_text import read_json

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class CommandRunner:
    """Measures latency with a command such as ``ssh board ./bench {model} {runs}``.

    ``{model}`` becomes the path of the file to run, ``{runs}`` the number of inferences. The command prints the latency
    of one inference in milliseconds as its last number, or as JSON ``{"latency_ms": …}`` on its last line; with a clock
    frequency its last number is cycles, or ``{"cycles": …}``.

    Args:
        template: the command; it is split like a shell's words but run without a shell.
        timeout_s: longest time for one model.
        clock_mhz: of a device that counts cycles; None: it prints milliseconds.

    Raises:
        MeasurementError: the template lacks ``{model}``, or cannot be split.
    """

    def __init__(self, template: str, timeout_s: float = 600.0, clock_mhz: float | None = None) -> None:
        if "{model}" not in template:
            raise MeasurementError(
                f"the runner {template!r} does not say where the model goes. Write {{model}} for its path and {{runs}} "
                'for the number of inferences, such as "./bench {model} {runs}".'
            )
        if clock_mhz is not None and not 0 < clock_mhz < math.inf:
            raise MeasurementError(f"a clock of {clock_mhz:g} MHz is none; give a positive number.")
        try:
            self._words = shlex.split(template)
        except ValueError as error:
            raise MeasurementError(f"the runner {template!r} cannot be split into words: {error}.") from None
        self.template, self.timeout_s, self.clock_mhz = template, timeout_s, clock_mhz

    def command(self, model: Path, runs: int) -> list[str]:
        """The words of the command for one model."""
        return [word.replace("{model}", str(model)).replace("{runs}", str(runs)) for word in self._words]

    def __call__(self, model: Path, runs: int) -> float:
        """Latency of one inference in milliseconds.

        Raises:
            MeasurementError: the command is missing, fails, takes too long, or prints no latency.
        """
        words = self.command(model, runs)
        shown = shlex.join(words)
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=self.timeout_s, check=False)
        except FileNotFoundError:
            raise MeasurementError(f"the runner's program {words[0]!r} was not found.") from None
        except OSError as error:
            raise MeasurementError(f"the runner {shown} could not be started: {error}.") from None
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"the runner {shown} took longer than {self.timeout_s:g} s.") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise MeasurementError(f"the runner {shown} failed with exit code {done.returncode}; it said: {said}")
        return parse_latency_ms(done.stdout, shown, self.clock_mhz)


def parse_latency_ms(text: str, shown: str, clock_mhz: float | None = None) -> float:
    """The latency in a runner's output, or that of its cycles.

    Raises:
        MeasurementError: there is none, or it is not a positive number.

    Example:
        >>> parse_latency_ms("warm-up done\\naverage: 1.25", "./bench")
        1.25
        >>> parse_latency_ms('{"latency_ms": 3}', "./bench")
        3.0
        >>> parse_latency_ms('{"cycles": 50000}', "./bench", clock_mhz=100)
        0.5
    """
    lines = text.strip().splitlines()
    value = math.nan
    if lines:
        numbers = _NUMBER.findall(lines[-1])
        value = float(numbers[-1]) if numbers else math.nan
        with contextlib.suppress(ValueError):
            document = read_json(lines[-1])
            if isinstance(document, dict):
                given = document.get("latency_ms" if clock_mhz is None else "cycles")
                value = float(given) if isinstance(given, int | float) else math.nan
    if not math.isfinite(value) or value <= 0:
        last = lines[-1] if lines else "nothing"
        what, form = ("latency", "milliseconds") if clock_mhz is None else ("number of cycles", "cycles")
        key = "latency_ms" if clock_mhz is None else "cycles"
        hint = " For a device that counts cycles, give --clock-mhz." if clock_mhz is None and "cycles" in last else ""
        raise MeasurementError(
            f"the runner {shown} printed no {what}; its last line was: {last}. It has to print the {form} of "
            f'one inference as its last number, or {{"{key}": …}}.{hint}'
        )
    return value if clock_mhz is None else value / (clock_mhz * 1e3)

"""Campaigns against the program, bounded in time: kills, damaged files, random networks in integers and in C.

    export OMP_NUM_THREADS=1
    python benchmarks/campaign.py --minutes 10                      # all three, as long each
    python benchmarks/campaign.py documents --minutes 30 --seed 1000
    python benchmarks/campaign.py kills networks --trials 20

Each trial has a seed of its own, which is printed with what it found and repeats it: ``--seed 1234 --trials 1``. Exit
code 1: something was found: a crash, an exit code that nothing asked for, a result that differs, other codes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from campaigns import documents, kills, networks, subject

from sigmaquant import cli

KINDS = ("documents", "kills", "networks")


@dataclass
class Tally:
    """What a campaign came to.

    Attributes:
        trials: how many.
        endings: how often each was seen.
        found: what should not be, with the seed that shows it.
    """

    trials: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def note(self, ending: str, wrong: str = "") -> None:
        """Count one trial."""
        self.trials += 1
        self.endings[ending] += 1
        if wrong:
            self.found.append(wrong)
            print(f"FOUND {wrong}", flush=True)


def seeds(first: int, trials: int, seconds: float) -> Iterator[int]:
    """Seeds until the time or the trials are over; one at least."""
    end = time.monotonic() + seconds
    for number in range(trials):
        if number and time.monotonic() > end:
            return
        yield first + number


def run_documents(folder: Path, each: Iterator[int]) -> Tally:
    """Damaged files of runs and sweeps."""
    tally = Tally()
    documents.prepare(folder / "base")
    for seed in each:
        done, ending = documents.trial(folder / "base", folder / "work", seed)
        tally.note(f"exit {ending.code}", "" if ending.well else f"seed {seed}: {done}: {ending.cause}")
    return tally


def run_kills(folder: Path, each: Iterator[int]) -> Tally:
    """Runs and sweeps that are killed and resumed."""
    tally, seconds = Tally(), kills.prepare(folder)
    for seed in each:
        killed = kills.trial(folder, folder / "work", seed, seconds)
        tally.endings["kills"] += killed.kills
        tally.note("runs", f"seed {seed}: {killed.difference}" if killed.difference else "")
    return tally


def run_networks(folder: Path, each: Iterator[int]) -> Tally:
    """Random networks in integers and in C."""
    tally = Tally()
    for seed in each:
        try:
            found = networks.trial(folder, seed)
        except Exception as error:  # what the campaign is for
            found = f"{type(error).__name__}: {str(error)[:300]}"
        kind = found.partition(":")[0]
        tally.note(
            kind if kind in ("same", "refused") else "wrong",
            "" if kind in ("same", "refused") else f"seed {seed}: {found}",
        )
    return tally


RUN: dict[str, Callable[[Path, Iterator[int]], Tally]] = {
    "documents": run_documents,
    "kills": run_kills,
    "networks": run_networks,
}


def warm(folder: Path) -> None:
    """Load in this process what every forked one needs."""
    before = sys.argv
    sys.argv = ["sigmaquant", "quantize", *subject.SEARCH, "--size", "7x", "--out", str(folder / "warm")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main()
    sys.argv = before


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"{', '.join(KINDS)}; default: all")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each kind")
    parser.add_argument("--trials", type=int, default=10**9, help="at most so many of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    options = parser.parse_args(arguments)
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"there is no campaign {unknown[0]!r}")
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        warm(Path(name))
        for kind in options.kinds or KINDS:
            folder = Path(name) / kind
            folder.mkdir()
            begin = time.monotonic()
            tally = RUN[kind](folder, seeds(options.seed, options.trials, 60 * options.minutes))
            wrong += len(tally.found)
            row = {"kind": kind, "trials": tally.trials, "found": len(tally.found), **tally.endings}
            print(json.dumps({**row, "seconds": round(time.monotonic() - begin)}), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

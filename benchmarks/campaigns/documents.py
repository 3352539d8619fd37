"""Damaged files: every one of a run, of a sweep and of an export, changed at random, then read by every verb.

A change may be of single bytes, or of one value of a JSON document for one that nobody expects; then its seal, where it
has one, is made anew in half of the cases, as an attacker or a program of another version would.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from campaigns.program import Ending, call
from campaigns.subject import MODEL, TEST, quantize, sweep

DEEP = "@deep@"
RAW = {
    DEEP: "[" * 1000 + "]" * 1000,
    "@digits@": "9" * 400,
    "@infinity@": "Infinity",
    "@minus infinity@": "-Infinity",
    "@nan@": "NaN",
    "@overflow@": "1e400",
    "@surrogate@": r'"\ud800"',
}
VALUES: tuple[Any, ...] = (
    *RAW,
    *(None, True, -1, 0, 1, 3, 255, 2**31, 2**63 - 1, -0.5, 0.5, 1e-300, 1e300, "", "x", "[/b]", "\x00", "é" * 300),
    *([], {}, [[]], {"a": 1}, ["x"], [1, 2, 3], [-1]),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document."""
    found = [path] if path else []
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        found += places(value, (*path, key))
    return found


def change(document: Any, draw: random.Random) -> tuple[str, str]:
    """One value changed, taken out or added: the text, and what was done."""
    path = draw.choice(places(document))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    kind = draw.random()
    if kind < 0.15:
        del inner[path[-1]]
        done = f"{path} taken out"
    elif kind < 0.25 and isinstance(inner, dict):
        inner[draw.choice(["x", "", "[/b]", "0"])] = value = draw.choice(VALUES)
        done = f"{path[:-1]} gets {value!r}"
    else:
        inner[path[-1]] = value = draw.choice(VALUES)
        done = f"{path} = {str(value)[:40]!r}"
    if isinstance(document, dict) and "document_sha256" in document and draw.random() < 0.5:
        values = {key: value for key, value in document.items() if key != "document_sha256"}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        document["document_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        done += ", sealed"
    text = json.dumps(document)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text, done


def damage(path: Path, draw: random.Random) -> str:
    """Change a file at random; what was done."""
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and draw.random() < 0.8:
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        number = draw.randrange(len(lines))
        lines[number], done = change(json.loads(lines[number]), draw)
        path.write_text("\n".join(lines) + "\n")
        return done
    if draw.random() < 0.25:
        path.write_bytes(data[: draw.randrange(len(data) + 1)])
        return "cut"
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 40))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    path.write_bytes(changed)
    return "bytes"


def prepare(folder: Path) -> None:
    """A run with exported files, a run that was not finished, and a sweep."""
    whole = quantize(folder / "run", "--export", "onnx,litert,c,packed")
    assert whole.code == 0, whole.err
    shutil.copytree(folder / "run", folder / "begun")
    for name in ("result.json", "checkpoint.safetensors", "plan.json", "layers.json"):
        (folder / "begun" / name).unlink()
    swept = sweep(folder / "sweep")
    assert swept.code == 0, swept.err


RUN = ("--model", MODEL, "--data", TEST)


def verbs(folder: Path, place: str, draw: random.Random) -> tuple[str, Ending]:
    """One verb that reads what was damaged."""
    if place == "sweep":
        return "sweep --resume", sweep(folder / "sweep", "--resume")
    if place == "begun":
        return "quantize --resume", quantize(folder / "begun", "--resume")
    run = str(folder / "run")
    name = draw.choice(
        ("compare", "compare", "report", "report", "evaluate", "verify", "export", "resume", "overwrite")
    )
    calls = {
        "compare": lambda: call("compare", run, run),
        "report": lambda: call("report", run),
        "evaluate": lambda: call("evaluate", run, *RUN, "--json"),
        "verify": lambda: call("verify", run, *RUN, "--quiet", "--json"),
        "export": lambda: call("export", run, *RUN, "--quiet", "--to", "packed"),
        "resume": lambda: quantize(folder / "run", "--resume", "--export", "packed"),
        "overwrite": lambda: quantize(folder / "run", "--overwrite"),
    }
    return name, calls[name]()


def trial(base: Path, work: Path, seed: int) -> tuple[str, Ending]:
    """One damaged file and one verb.

    Returns:
        what was done, and how the verb ended.
    """
    draw = random.Random(seed)
    place = draw.choice(("run", "run", "run", "begun", "sweep"))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.copytree(base / place, work / place)
    kinds = (".json", ".jsonl", ".safetensors", ".onnx", ".tflite", ".c", ".h", ".csv")
    files = sorted(path for path in (work / place).rglob("*") if path.suffix in kinds and path.stat().st_size)
    documents = [path for path in files if path.suffix in (".json", ".jsonl") and "report" not in path.name]
    path = draw.choice(documents if draw.random() < 0.8 else files)
    done = damage(path, draw)
    verb, ending = verbs(work, place, draw)
    return f"{verb} after {path.relative_to(work)}: {done}", ending

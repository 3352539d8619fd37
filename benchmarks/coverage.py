"""What becomes of the networks that people bring: traced, quantized, in integers, in files that compute the same.

    python benchmarks/coverage.py setup             # an environment in .coverage-venv/, versions pinned
    export OMP_NUM_THREADS=1
    .coverage-venv/bin/python benchmarks/coverage.py run
    .coverage-venv/bin/python benchmarks/coverage.py run --group convolutional --only yolov8n,unet --again
    .coverage-venv/bin/python benchmarks/coverage.py train --group recurrent   # two steps at 4 bits, no files
    python benchmarks/coverage.py table             # what docs/coverage.md shows
    python benchmarks/coverage.py causes            # which operator, message or error stands in whose way

Every network has random weights, small inputs, and BatchNorm statistics of its own data, and is a process of its own
with limits on time and memory. It is called as its library calls it (a dict of keywords for transformers'), quantized
to 8 bits everywhere after training on random data, and brought to integers. Then every edge of the integers is compared
with the fake-quantized network, given the network's own codes as inputs (random deep networks amplify single codes, so
that ends alone say little), and each kind of file is written, run, and compared with the integers and with the network.
Rows that are in the results are not measured again, unless ``--again`` says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from networks.tables import FILES, GROUPS, Row, causes, read, table, verdict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIBRARIES = ("timm", "transformers", "torchvision", "segmentation_models_pytorch", "ultralytics")
RESULTS = HERE / "results" / "coverage.jsonl"


def setup(folder: Path, interpreter: str) -> None:
    """Make the environment: the libraries pinned, this checkout with its exporters."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, "-r", str(HERE / "coverage_requirements.txt"), "-e", f"{ROOT}[onnx,litert]"], check=True)


def in_process(name: str, files: list[str] | None, seconds: float, memory_gib: float) -> Row:
    """A network's row from a process of its own, whatever becomes of it.

    The process is forked from this one, which has the libraries: importing them takes longer than most networks.
    Without `files` it is trained instead of measured.
    """
    from networks.measure import measure
    from networks.training import train

    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.setpgrp()  # with the compilers that it starts
            size = int(memory_gib * 2**30)
            resource.setrlimit(resource.RLIMIT_DATA, (size, size))
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 1
            try:
                _ = train(name) if files is None else measure(name, files)
                status = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        ended = waited(child, begin + seconds)
        row: Row = {"network": name}
        out.seek(0)
        for line in out:
            with contextlib.suppress(json.JSONDecodeError):
                row.update(json.loads(line))
        err.seek(0)
        if ended == "failed":
            ended = (err.read().strip().splitlines() or ["no message"])[-1][:300]
    row["wall_s"] = round(time.monotonic() - begin, 1)
    return {**row, "ended": ended} if ended else row


def waited(child: int, until: float) -> str:
    """How a process ended: empty where it ended well."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else "failed" if code > 0 else f"signal {-code}"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "out of time"


def run(args: argparse.Namespace) -> None:
    from networks.registry import entries

    import sigmaquant

    done = {} if args.again else {row["network"]: row for row in read(args.out)}
    chosen = [e for e in entries().values() if (not args.group or e.group == args.group)]
    if args.only:
        wanted = args.only.split(",")
        unknown = set(wanted) - set(entries())
        if unknown:
            raise SystemExit(f"there is no network {sorted(unknown)[0]!r}; `coverage.py list` shows them.")
        chosen = [e for e in chosen if e.name in wanted]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "YOLO_VERBOSE": "false", "HF_HUB_OFFLINE": "1"}
    for library in LIBRARIES:
        importlib.import_module(library)
    for entry in chosen:
        if entry.name in done:
            continue
        files = None if args.command == "train" else [kind for kind in args.files.split(",") if kind]
        row = in_process(entry.name, files, args.seconds, args.memory)
        row = {**row, "group": entry.group, "kind": entry.kind, "sigmaquant": sigmaquant.__version__}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        told = verdict(row) if files is not None else row.get("training", row.get("ended"))
        print(f"{entry.name:36} {row['wall_s']:6.1f} s  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("setup", help="make the environment")
    make.add_argument("--into", type=Path, default=ROOT / ".coverage-venv")
    make.add_argument("--python", default=sys.executable)
    go = commands.add_parser("run", help="measure the networks that have no row yet")
    go.add_argument("--files", default=",".join(FILES), help="kinds of files; '' for none")
    trained = commands.add_parser("train", help="two steps of training instead")
    for sub in (go, trained):
        sub.add_argument("--only", help="names, with commas between")
        sub.add_argument("--group", choices=GROUPS)
        sub.add_argument("--again", action="store_true", help="also those that have a row")
        sub.add_argument("--seconds", type=float, default=300, help="for one network")
        sub.add_argument("--memory", type=float, default=8, help="GiB for one network")
    trained.add_argument("--out", type=Path, default=RESULTS.with_name("coverage_training.jsonl"))
    one = commands.add_parser("one", help="one network in this process, for `run`")
    one.add_argument("name")
    one.add_argument("--files", default=",".join(FILES))
    commands.add_parser("list", help="all networks")
    shown = [commands.add_parser("table", help="Markdown"), commands.add_parser("causes", help="Markdown")]
    for sub in (go, *shown):
        sub.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.command == "setup":
        setup(args.into, args.python)
    elif args.command in ("run", "train"):
        run(args)
    elif args.command == "one":
        from networks.measure import measure

        measure(args.name, [kind for kind in args.files.split(",") if kind])
    elif args.command == "list":
        from networks.registry import entries

        print("\n".join(f"{e.name}: {e.group}, {e.kind}" for e in entries().values()))
    else:
        print({"table": table, "causes": causes}[args.command](read(args.out)))


if __name__ == "__main__":
    main()

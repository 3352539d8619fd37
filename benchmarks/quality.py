"""Quality at given bits a weight, on every network that is at hand, post-training and trained, beside its controls.

    python benchmarks/quality.py --data DIR --tasks DIR --out results/quality.jsonl
    python benchmarks/quality.py … --networks resnet20,kwt --bits 4,3 --ways reconstruction --strategies ilp,uniform
    python benchmarks/quality.py --table results/quality.jsonl

DIR of ``--data`` holds CIFAR-10 and the ResNets' weights (``load.py``, ``networks.py``), DIR of ``--tasks`` the other
networks and their data (``load_image.py``, ``load_sequence.py``, ``load_coco.py``); what is absent is skipped with its
reason. Rows that are in the results file are not made again, so that the command may be stopped and repeated.

Ways: ``default`` and ``reconstruction`` see at most `EXAMPLES` unlabelled examples and are post-training, the second
with five minutes; ``training`` has ten minutes and the network's own training data. Sizes are those of the packed
weights: b bits a weight are 32/b times smaller than float32. Decisions see calibration data alone; the test examples
are scored once, at the end, and beside every result stands the difference to the float network on the same examples
with its paired standard error. The line between the uniform neighbours of a size that is no whole bitwidth is drawn in
the table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sigmaquant
from sigmaquant import Budget, Settings
from sigmaquant.errors import MissingExtraError, SigmaQuantError
from sigmaquant.frontends.models import load_model
from sigmaquant.runs import make_progress
from sigmaquant.tasks import Boxes, Detection
from sigmaquant.tasks.boxes import average_precisions, overlaps
from sigmaquant.workflow.job import Job

EXAMPLES = 512
ALL_WIDTHS = (2, 3, 4, 5, 6, 7, 8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH, _DRAWS, _OVERLAP = 50, 200, 0.5
KEY = ("network", "way", "strategy", "bits", "seed")


@dataclass(frozen=True)
class Subject:
    """A network with its data.

    Attributes:
        network: in float.
        calibration: inputs and labels; post-training uses no labels but for choosing among what was measured.
        validation: that decisions see besides.
        test: scored once, at the end.
        training: of the way ``training``; None: there are none beyond the calibration examples.
        task: None: classes, judged by top-1; a detector is judged by AP50.
    """

    network: nn.Module
    calibration: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    training: tuple[Tensor, Tensor] | None = None
    task: Detection | None = None


def resnet(args: argparse.Namespace, depth: int) -> Subject:
    """CIFAR-10; of the training images 512 calibrate and 2,000 others validate."""
    load = reader(args.data, "load")
    network, _ = load.network(f"akamaster_resnet{depth}_cifar10")

    def read(split: str) -> tuple[Tensor, Tensor]:
        images, labels = load.cifar(split)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        return x.contiguous(), torch.from_numpy(labels).long()

    x, y = read("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    few, held, rest = order[:EXAMPLES], order[EXAMPLES : EXAMPLES + 2000], order[EXAMPLES + 2000 :]
    return Subject(network, (x[few], y[few]), (x[held], y[held]), read("test"), (x[rest], y[rest]))


def kwt(args: argparse.Namespace) -> Subject:
    """Keywords; judged on words."""
    load, networks = reader(args.tasks, "load_sequence"), reader(args.tasks, "networks_sequence")
    network = load.weights(networks.KWT1(), "kwt1_speech_commands")
    x, y = load.kwt("calib")
    a, b = load.kwt("eval")
    return Subject(network, (x[:300], y[:300]), (x[300:], y[300:]), (a[b > 0], b[b > 0]))


def mobilenet_v2(args: argparse.Namespace) -> Subject:
    """Photographs: the even ones calibrate and validate, the odd ones test."""
    load = reader(args.tasks, "load_image")
    x, y = load.photographs()
    inputs, labels = load.prepare(x), torch.from_numpy(y).long() + 1
    even, odd = (inputs[0::2], labels[0::2]), (inputs[1::2], labels[1::2])
    return Subject(load.mobilenet_v2(), (even[0][:400], even[1][:400]), (even[0][400:], even[1][400:]), odd)


def vww(args: argparse.Namespace) -> Subject:
    """A person or none, by a Keras file, whose images have their channels last."""
    load = reader(args.tasks, "load_coco")
    network = load_model(f"{args.tasks / 'keras' / 'vww_96.h5'}?logits=true")

    def read(split: str) -> tuple[Tensor, Tensor]:
        images, labels = load.vww(split)
        return torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()

    return Subject(network, *parted(read("train")), read("val"))


def fastestdet(args: argparse.Namespace) -> Subject:
    """Boxes of COCO's 80 classes."""
    from detection import Images, network_and_data, task_of  # only here: a data folder may have a module of the name

    reader(args.tasks, "load_coco")
    network, *parts = network_and_data(args.tasks)

    def read(images: Images) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*(images[index] for index in range(len(images))), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    train, test = (read(images) for images in parts)
    return Subject(network, *parted(train), test, task=task_of(network))


def parted(data: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A few hundred training examples: six of seven calibrate, those between them validate."""
    inputs, targets = data
    held = torch.arange(len(inputs)) % 7 == 3
    return (inputs[~held], targets[~held]), (inputs[held], targets[held])


NETWORKS: dict[str, Callable[[argparse.Namespace], Subject]] = {
    "resnet20": lambda args: resnet(args, 20),
    "resnet56": lambda args: resnet(args, 56),
    "kwt": kwt,
    "mobilenet_v2": mobilenet_v2,
    "vww": vww,
    "fastestdet": fastestdet,
}

WAYS: dict[str, dict[str, Any]] = {
    "default": {"post_training": True},
    "reconstruction": {"post_training": True, "minutes": 5.0},
    "training": {"minutes": 10.0},
}


def reader(folder: Path | None, module: str) -> Any:
    """A reader that lies in a data folder.

    Raises:
        FileNotFoundError: the folder is not given, or lacks it.
    """
    if folder is None or not (folder / f"{module}.py").is_file():
        raise FileNotFoundError(f"{module}.py is not in {folder}")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return __import__(module)


@torch.no_grad()
def scores(subject: Subject, network: nn.Module) -> tuple[float, float, float, float]:
    """Of a network and the float one on the test examples, their difference and its paired standard error."""
    inputs, targets = subject.test
    found, wanted = ([one(x) for x in inputs.split(_BATCH)] for one in (network, subject.network))
    if subject.task is None:
        mine, theirs = ((torch.cat(x).argmax(1) == targets).double() for x in (found, wanted))
        difference = mine - theirs
        error = float(difference.std(correction=0)) / math.sqrt(len(difference))
        return float(mine.mean()), float(theirs.mean()), float(difference.mean()), error
    boxes = [[one for x in several for one in subject.task.boxes(x)] for several in (found, wanted)]
    return paired_precision(boxes[0], boxes[1], targets)


def paired_precision(
    found: Sequence[Boxes], wanted: Sequence[Boxes], targets: Tensor
) -> tuple[float, float, float, float]:
    """AP50 of two detectors, their difference and its standard error: the bootstrap's, over images."""
    mine, theirs = (average_precisions(boxes, targets)["ap50"] for boxes in (found, wanted))
    counted = [Counted.of(boxes, targets) for boxes in (found, wanted)]
    drawn = np.random.default_rng(0).multinomial(len(targets), np.full(len(targets), 1 / len(targets)), size=_DRAWS)
    differences = [counted[0].precision(times) - counted[1].precision(times) for times in drawn]
    return mine, theirs, mine - theirs, float(np.std(differences))


@dataclass(frozen=True)
class Counted:
    """What counts for AP50 of every class: the boxes that were found, the surest first, and those that there are.

    Attributes:
        images: of the found boxes, by class.
        hits: whether they are at one that there is; those at crowds are left out.
        present: how many there are, by class and image.
    """

    images: tuple[Any, ...]
    hits: tuple[Any, ...]
    present: tuple[Any, ...]

    @classmethod
    def of(cls, found: Sequence[Boxes], targets: Tensor) -> Counted:
        """Match the boxes of every image, as `average_precisions` does."""
        rows: dict[int, list[tuple[float, int, bool]]] = {}
        present = {int(kind): np.zeros(len(targets)) for kind in targets[:, :, 4].unique() if kind >= 0}
        for image, (boxes, there) in enumerate(zip(found, targets, strict=True)):
            for kind, counts in present.items():
                own, true = boxes.classes == kind, there[there[:, 4] == kind]
                counts[image] = int((true[:, 5] == 0).sum())
                order = boxes.scores[own].argsort(descending=True, stable=True)
                near = overlaps(boxes.corners[own][order], true[:, :4])
                for score, close in zip(boxes.scores[own][order].tolist(), near, strict=True):
                    at = int(close.argmax()) if len(close) and float(close.max()) >= _OVERLAP else None
                    if at is None or not true[at, 5]:
                        rows.setdefault(kind, []).append((score, image, at is not None))
                        near[:, at if at is not None else slice(0)] = 0
        ranked = [sorted(rows.get(kind, []), key=lambda row: -row[0]) for kind in present]
        return cls(
            tuple(np.array([row[1] for row in several], int) for several in ranked),
            tuple(np.array([row[2] for row in several], bool) for several in ranked),
            tuple(present.values()),
        )

    def precision(self, times: Any) -> float:
        """AP50 where every image is there so many times."""
        found = []
        for images, hits, present in zip(self.images, self.hits, self.present, strict=True):
            positives = float(present @ times)
            if not positives:
                continue
            right, all_ = np.cumsum(times[images] * hits), np.cumsum(times[images])
            precision = np.maximum.accumulate((right / np.maximum(all_, 1))[::-1])[::-1]
            at = np.searchsorted(right / positives, np.linspace(0, 1, 101))
            found.append(np.append(precision, 0.0)[at].mean())
        return float(np.mean(found))


def run(args: argparse.Namespace, subject: Subject, jobs: dict[Any, Job], key: dict[str, Any]) -> dict[str, Any]:
    """One row; rows of one network share what is measured of the float network, as the runs of a sweep do."""
    way = dict(WAYS[key["way"]])
    if "minutes" in way and args.minutes is not None:
        way["minutes"] = args.minutes
    trains = not way.get("post_training", False)
    data = subject.training if trains and subject.training is not None else subject.calibration
    settings = Settings(
        strategy=key["strategy"], bitwidths=ALL_WIDTHS, seed=key["seed"], calibration_examples=EXAMPLES, **way
    )
    wall, cpu = time.perf_counter(), time.process_time()
    kind, seed = (key["way"], key["strategy"], key["seed"]), key["seed"]
    if kind not in jobs:
        alike = [job for (way_, _, drawn), job in jobs.items() if drawn == seed and "post_training" in WAYS[way_]]
        known = alike[0].statistics if alike and not trains else None
        jobs[kind] = Job(
            subject.network,
            data,
            validation_data=subject.validation,
            task=subject.task,
            settings=settings,
            statistics=known,
        )
    result = jobs[kind].run(
        Budget(size=f"{32 / key['bits']!r}x", size_counts="weights"), progress=make_progress(show=not args.quiet)
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    score, reference, difference, error = scores(subject, result.network)
    return {
        **key,
        "metric": "top-1" if subject.task is None else "AP50",
        "test_score": score,
        "float_score": reference,
        "difference": difference,
        "paired_error": error,
        "validation_divergence": result.scores.divergence,
        "weight_bytes": result.cost.weight_bytes,
        "total_bytes": result.cost.total_bytes,
        "weights": dict(result.plan.weights),
        "notes": list(result.notes),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "minutes": way.get("minutes"),
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "sigmaquant": sigmaquant.__version__,
        "torch": torch.__version__,
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def line_between(rows: list[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """Score on the line between the uniform plans of the whole bitwidths around a size."""
    low, high = math.floor(row["bits"]), math.ceil(row["bits"])
    found = {
        r["bits"]: r["test_score"]
        for r in rows
        if r["strategy"] == "uniform" and all(r[k] == row[k] for k in ("network", "way", "seed"))
    }
    if low == high or low not in found or high not in found:
        return None
    return float(found[low] + (row["bits"] - low) * (found[high] - found[low]))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a row of older code has its remarks beside its way."""
    lines = [
        "| network | float | bits | way | strategy | top-1, AP50, % | − float (paired error) | uniform line | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda r: (r["network"], -r["bits"], r["way"], r["strategy"], r["seed"])):
        between = line_between(rows, row)
        way = ", ".join(
            [row["way"], *([f"{row['minutes']:g} min"] if row.get("minutes") else []), *row.get("remarks", [])]
        )
        lines.append(
            f"| {row['network']} | {100 * row['float_score']:.2f} | {row['bits']:g} | {way} | {row['strategy']} "
            f"| {100 * row['test_score']:.2f} | {100 * row['difference']:+.2f} ({100 * row['paired_error']:.2f}) "
            f"| {'' if between is None else f'{100 * between:.2f}'} | {row['cpu_s']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 and the ResNets")
    parser.add_argument("--tasks", type=Path, help="folder with the other networks and their data")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--bits", default="8,4,3,2.5,2")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--strategies", default="sigma,ilp,uniform,random")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--minutes", type=float, help="in place of the ways' own")
    parser.add_argument("--out", type=Path, default=Path("results/quality.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of a results file")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.table:
        if not args.table.is_file():
            parser.error(f"there is no file {args.table}")
        print(table(read(args.table)))
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.networks.split(","):
        if name not in NETWORKS:
            parser.error(f"there is no network {name}: {', '.join(NETWORKS)}")
        try:
            subject = NETWORKS[name](args)
        except (FileNotFoundError, ImportError, MissingExtraError) as error:
            print(f"{name} skipped: {error}", file=sys.stderr)
            continue
        jobs: dict[Any, Job] = {}
        for way in args.ways.split(","):
            for bits in (float(text) for text in args.bits.split(",")):
                for strategy in args.strategies.split(","):
                    for seed in (int(text) for text in args.seeds.split(",")):
                        key = dict(zip(KEY, (name, way, strategy, bits, seed), strict=True))
                        if any(key.items() <= row.items() for row in read(args.out)):
                            continue
                        try:
                            row = run(args, subject, jobs, key)
                        except SigmaQuantError as error:  # such as a size that no plan has
                            print(f"{key}: {error}", file=sys.stderr)
                            continue
                        with args.out.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                        print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

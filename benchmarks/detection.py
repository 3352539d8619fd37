"""A detector with three maps, from its float network to verified files: FastestDet on images of COCO.

    python benchmarks/detection.py TASKS --bits 8 --out runs/detection-8
    python benchmarks/detection.py TASKS --bits 4 --epochs 4 --out runs/detection-4

TASKS is a folder with the network (``networks_detect.py``, ``weights/fastestdet_coco.safetensors``) and images of COCO
2017 with their boxes (``load_coco.py``): 294 of the training split, which calibrate and train, and 310 of the
validation split. These judge nothing but the result: the search is given a part of the training images to decide on.
Prints a row of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

import sigmaquant
from sigmaquant.export.verification import Verification
from sigmaquant.tasks import Boxes, Detection, box_targets, suppressed
from sigmaquant.workflow.exporting import export_run


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images as the network takes them, with their boxes: read from memory, resized when asked for.

    Args:
        images, truth: as ``load_coco.load`` gives them.
        batch: its function that resizes.
        network: has the size and the order of the colours.
    """

    def __init__(self, images: list[Any], truth: list[Any], batch: Any, network: Any) -> None:
        self._images, self._batch, self._network = images, batch, network
        boxes, classes, crowds = ([torch.as_tensor(row[part]) for row in truth] for part in (0, 1, 2))
        self.targets = box_targets(boxes, classes, crowds)
        self.names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._batch([self._images[index]], self._network.size, self._network.order)[0], self.targets[index]


def network_and_data(folder: Path, most: int | None = None) -> tuple[nn.Module, Images, Images]:
    """The float network, the training images and the validation images (all, or so many)."""
    sys.path.insert(0, str(folder))
    try:
        import load_coco
        import networks_detect
    finally:
        sys.path.remove(str(folder))
    network = networks_detect.FastestDet().eval()
    network.load_state_dict(load_file(str(folder / "weights" / "fastestdet_coco.safetensors")), strict=False)
    parts = [load_coco.load(split) for split in ("train", "val")]
    train, validation = (Images(x[:most], y[:most], load_coco.batch, network) for x, y in parts)
    validation.names = tuple(json.loads((load_coco.HERE / "val.json").read_text(encoding="utf-8"))["classes"])
    return network, train, validation


def task_of(network: Any, names: tuple[str, ...] = ()) -> Detection:
    """Decoding by the network's own rule, then non-maximum suppression; colours the other way round."""

    def decode(maps: Any) -> list[Boxes]:
        return [suppressed(Boxes(*one)) for one in zip(*network.decode(maps), strict=True)]

    return Detection(decode, image=lambda x: x.flip(0), classes=names or None)


def described(verdict: Verification) -> dict[str, Any]:
    """Of a file that runs."""
    agreement = verdict.agreement
    assert agreement is not None
    return {
        "passed": verdict.passed,
        "alike": agreement.decisions,
        "equal": agreement.equal,
        "bytes": verdict.real_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, default=8, help="of every weight")
    parser.add_argument("--epochs", type=float, default=0.0, help="of distillation on the training images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", default="onnx,litert,c,packed")
    parser.add_argument("--examples", type=int, default=310, help="validation images on which files are verified")
    args = parser.parse_args()
    network, train, validation = network_and_data(args.folder)
    task = task_of(network, validation.names)
    options = {"post_training": True} if args.epochs == 0 else {"final_epochs": args.epochs, "cycle_examples": 0}
    begun = time.process_time()
    result = sigmaquant.quantize(
        network,
        train,
        test_data=validation,
        task=task,
        budget=f"{0.7 * 32 / args.bits:.2f}x",
        strategy="uniform",
        bitwidths=(args.bits,),
        batch_size=16,
        validation_fraction=0.15,
        calibration_examples=256,
        batch_norm_examples=256,
        run_dir=args.out,
        overwrite=True,
        **options,
    )
    quantized = time.process_time() - begun
    verdicts = export_run(network, args.out, validation, to=args.to.split(","), task=task, examples=args.examples)
    row = {
        "bits": args.bits,
        "epochs": args.epochs,
        "bytes": result.cost.total_bytes,
        "float_bytes": result.reference.total_bytes,
        "float_ap50": result.float_scores.test,
        "ap50": result.scores.test,
        "quantize_cpu_s": round(quantized),
        "files": {verdict.target: described(verdict) for verdict in verdicts if verdict.agreement is not None},
        "integers_alike": verdicts[0].integers.agreement.decisions if verdicts[0].integers else None,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()

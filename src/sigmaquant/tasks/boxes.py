"""Boxes in images: what a detector finds, what is there, and average precision as COCO defines it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmaquant.errors import DataError, MissingExtraError

PADDING = -1
"""The class of rows of targets that hold no box."""
MOST = 100
"""Detections of an image that COCO's measure counts, the surest."""


class Boxes(NamedTuple):
    """What is found in an image.

    Attributes:
        corners: x1, y1, x2, y2, [n, 4], in the same unit as the targets'.
        scores: [n], higher is surer.
        classes: [n], integers.
    """

    corners: Tensor
    scores: Tensor
    classes: Tensor


def box_targets(boxes: Sequence[Tensor], classes: Sequence[Tensor], crowds: Sequence[Tensor] | None = None) -> Tensor:
    """Boxes of several images as one tensor of targets: rows of x1, y1, x2, y2, class, crowd.

    Images with fewer boxes than others are filled up with rows of the class -1.

    Args:
        boxes: for each image, [n, 4].
        classes: for each image, [n], from 0.
        crowds: for each image, [n]: 1 where a box holds a crowd, which counts neither as found nor as missed.

    Returns:
        [N, most boxes of an image, 6], float32.

    Example:
        >>> box_targets([torch.tensor([[0.0, 0.0, 1.0, 0.5]]), torch.zeros(0, 4)], [torch.tensor([7]), torch.zeros(0)])
        tensor([[[ 0.0000,  0.0000,  1.0000,  0.5000,  7.0000,  0.0000]],
                [[ 0.0000,  0.0000,  0.0000,  0.0000, -1.0000,  0.0000]]])
    """
    most = max([1, *(len(found) for found in boxes)])
    targets = torch.zeros(len(boxes), most, 6)
    targets[:, :, 4] = PADDING
    for index, (corners, kinds) in enumerate(zip(boxes, classes, strict=True)):
        count = len(corners)
        targets[index, :count, :4] = torch.as_tensor(corners, dtype=torch.float32).reshape(count, 4)
        targets[index, :count, 4] = torch.as_tensor(kinds, dtype=torch.float32)
        if crowds is not None:
            targets[index, :count, 5] = torch.as_tensor(crowds[index], dtype=torch.float32)
    return targets


def check_box_targets(targets: Tensor) -> None:
    """Raise for targets that are not as `box_targets` makes them.

    Raises:
        DataError: see above.
    """
    if targets.dim() != 3 or targets.shape[2] not in (5, 6) or not targets.is_floating_point():
        raise DataError(
            f"a detector's targets are boxes [N, boxes, 5 or 6] in float (x1, y1, x2, y2, class, crowd), not "
            f"{targets.dtype} of shape {tuple(targets.shape)}. `sigmaquant.tasks.box_targets` makes them."
        )


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of every box with every other, [n, m]."""
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (high - low).clamp_min(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).clamp_min(0).prod(1) for x in (one, other)]
    return common / (areas[0][:, None] + areas[1][None] - common).clamp_min(1e-12)


def suppressed(boxes: Boxes, overlap: float = 0.5, floor: float = 0.001, most: int = MOST) -> Boxes:
    """Non-maximum suppression: of boxes of one class that overlap, the surest stays; for use in a decoding.

    Args:
        boxes: of one image.
        overlap: IoU above which two boxes are of one object.
        floor: scores below are left out.
        most: the surest so many stay; ten times as many are looked at.
    """
    order = boxes.scores.argsort(descending=True, stable=True)
    order = order[boxes.scores[order] > floor][: 10 * most]
    corners, scores, classes = (x[order] for x in boxes)
    clash = (overlaps(corners, corners) > overlap) & (classes[:, None] == classes[None])
    alive = np.ones(len(order), dtype=bool)
    later = clash.triu(1).numpy()
    for index in range(len(order)):
        if alive[index]:
            alive &= ~later[index]
    kept = torch.from_numpy(np.flatnonzero(alive)[:most])
    return Boxes(corners[kept], scores[kept], classes[kept])


def agreeing(one: Boxes, other: Boxes, score: float, overlap: float) -> float:
    """The share of two networks' sure boxes that the other has as well; 1 where neither has any.

    A box is had where one of the same class overlaps enough and is at least half as sure, each for one only.
    """
    counts = [_found_again(*pair, score, overlap) for pair in ((one, other), (other, one))]
    total = sum(count for _, count in counts)
    return sum(again for again, _ in counts) / total if total else 1.0


def _found_again(boxes: Boxes, among: Boxes, score: float, overlap: float) -> tuple[int, int]:
    sure = boxes.scores >= score
    order = boxes.scores[sure].argsort(descending=True, stable=True)
    corners, classes = boxes.corners[sure][order], boxes.classes[sure][order]
    candidates = among.scores >= score / 2
    others, kinds = among.corners[candidates], among.classes[candidates]
    near = overlaps(corners, others) * (classes[:, None] == kinds[None])
    again = 0
    for index in range(len(corners)):
        if len(others) and float(near[index].max()) >= overlap:
            again += 1
            near[:, int(near[index].argmax())] = 0
    return again, len(corners)


def average_precisions(found: Sequence[Boxes], targets: Tensor) -> dict[str, float]:
    """Average precision as COCO defines it, by pycocotools: over all sizes, and the 100 surest boxes of an image.

    Args:
        found: for each image.
        targets: as `box_targets` makes them.

    Returns:
        ``"ap"`` (the mean over IoU 0.5 to 0.95), ``"ap50"`` and ``"ap75"``: means over the classes that are there.

    Raises:
        MissingExtraError: pycocotools is not installed.
        DataError: no box is there.
    """
    coco, evaluation = _pycocotools()
    check_box_targets(targets)
    rows = targets.tolist()
    boxes: list[dict[str, Any]] = [
        {"image_id": image, "category_id": int(row[4]), "bbox": _corner_and_size(row), "iscrowd": int(any(row[5:]))}
        for image, several in enumerate(rows, 1)
        for row in several
        if row[4] != PADDING
    ]
    if not any(not box["iscrowd"] for box in boxes):
        raise DataError("average precision needs targets with boxes, and there is none.")
    kinds = sorted({box["category_id"] for box in boxes})
    images = [{"id": image} for image in range(1, len(rows) + 1)]
    for number, box in enumerate(boxes, 1):
        box |= {"id": number, "area": box["bbox"][2] * box["bbox"][3]}
    results = [
        [image, *_corner_and_size(corner), score, kind]
        for image, one in enumerate(found, 1)
        for corner, score, kind in zip(one.corners.tolist(), one.scores.tolist(), one.classes.tolist(), strict=True)
        if kind in kinds
    ]
    if not results:
        return dict.fromkeys(("ap", "ap50", "ap75"), 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints
        truth = coco()
        truth.dataset = {"images": images, "annotations": boxes, "categories": [{"id": kind} for kind in kinds]}
        truth.createIndex()
        judged = evaluation(truth, truth.loadRes(np.array(results, dtype=np.float64)), "bbox")
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.params.maxDets = [MOST]
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][:, :, :, 0, 0]  # [IoU, recall, class]
    return {name: _mean(precision[part]) for name, part in (("ap", slice(None)), ("ap50", 0), ("ap75", 5))}


def _mean(precision: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else 0.0


def _corner_and_size(row: Sequence[float]) -> list[float]:
    return [row[0], row[1], row[2] - row[0], row[3] - row[1]]


def _pycocotools() -> tuple[type, type]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtraError("Average precision of detectors", "detection") from None
    return COCO, COCOeval


def check_library() -> None:
    """Raise early where average precision cannot be had.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    _pycocotools()

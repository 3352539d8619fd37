"""Detection: a network's maps, the user's decoding of them, average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sigmaquant.errors import DataError, SigmaQuantError
from sigmaquant.tasks.boxes import PADDING, Boxes, agreeing, average_precisions, check_box_targets, check_library
from sigmaquant.tasks.parts import Kind, Part
from sigmaquant.tasks.pictures import Box, Picture, image_url
from sigmaquant.tasks.structure import Outputs, leaves, map_outputs, picked
from sigmaquant.tasks.task import Task, told

Decode = Callable[[Any], Sequence[Any]]
"""What the network returns for a batch -> for each image (boxes [n, 4], scores [n], classes [n])."""

_METRICS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
_SHOWN = 6
"""Images in the report."""


class Detection(Task):
    """Boxes in images: all maps that the network returns, decoded by the user's function; AP as COCO defines it.

    The targets are boxes as `box_targets` makes them, in the unit of the decoded ones. Search and training go by the
    maps' distance to the float network's; there is no loss but that of the user. A file decides an image like the
    reference by the share of sure boxes that both find (`agreeing`).

    Args:
        decode: takes what the network returns for a batch, gives for each image boxes (x1, y1, x2, y2) [n, 4], scores
            [n] and classes [n], after non-maximum suppression (`suppressed`).
        metric: ``"ap50"``, ``"ap75"`` or ``"ap"``.
        loss: ``(outputs, targets) -> scalar``; None: distil only.
        score: boxes that are at least so sure are compared in verification and shown in the report.
        overlap: IoU from which two boxes are the same in verification.
        required: see `Task`. Single roundings, which grow through many layers, move some boxes across these limits:
            files that are right in every operator differ by one to five percent of their boxes.
        compare: how each map is compared, ``"values"`` or ``"logits"`` (along axis 1), in their order; None: values.
        image: turns an input [channels, height, width] into RGB in 0..1 for the report; None: as it is where it lies
            there, else stretched to it.
        classes: names of the classes, for the report.
        pixels: boxes are in pixels of the input; else in parts of its width and height.
        output: see `Task`; None: everything that the network returns.

    Raises:
        SigmaQuantError: `decode` or `loss` cannot be called, or there is no such metric or comparison.
    """

    name, share = "detection", True

    def __init__(
        self,
        decode: Decode,
        *,
        metric: str = "ap50",
        loss: Callable[[Any, Tensor], Tensor] | None = None,
        score: float = 0.3,
        overlap: float = 0.5,
        required: float = 0.9,
        compare: Sequence[Kind] | None = None,
        image: Callable[[Tensor], Tensor] | None = None,
        classes: Sequence[str] | None = None,
        pixels: bool = False,
        output: int | str | None = None,
    ) -> None:
        for what, function in (("decode", decode), ("loss", loss)):
            if not callable(function) and (function is not None or what == "decode"):
                raise SigmaQuantError(f"a detector's {what} must be a function, it is a {type(function).__name__}.")
        if metric not in _METRICS:
            raise SigmaQuantError(f"there is no metric {metric!r} of detectors. Choose one of {', '.join(_METRICS)}.")
        if compare is not None and not set(compare) <= {"values", "logits"}:
            raise SigmaQuantError(f"maps are compared as values or logits, not as {', '.join(compare)}.")
        self.decode, self.kind, self.metric_name = decode, metric, _METRICS[metric]
        self.score, self.overlap, self.required, self.output = score, overlap, required, output
        self.compare: tuple[Kind, ...] | None = None if compare is None else tuple(compare)
        self.image, self.pixels = image, pixels
        self.classes = None if classes is None else tuple(classes)
        if loss is not None:
            self.loss = loss  # type: ignore[assignment, method-assign]

    def check(self) -> None:
        """Whether average precision can be had."""
        check_library()

    def outputs(self, returned: Any) -> Outputs:
        """All maps, as the network returns them."""
        return returned if self.output is None else picked(returned, self.output)

    def parts(self, outputs: Outputs) -> Sequence[Part]:
        """As `compare` says."""
        found = leaves(outputs)
        kinds: Sequence[Kind] = ["values"] * len(found) if self.compare is None else self.compare
        if len(kinds) != len(found):
            raise DataError(f"the network returns {len(found)} maps, but compare= names {len(kinds)}.")
        return tuple(Part(kind) for kind in kinds)

    def boxes(self, outputs: Outputs) -> list[Boxes]:
        """What is decoded, in float32 on the CPU.

        Raises:
            DataError: the decoding gives something else.
        """
        count, found = len(leaves(outputs)[0]), list[Boxes]()
        for first in range(0, count, 16):
            part = map_outputs(lambda x, first=first: x[first : first + 16], outputs)  # type: ignore[misc]
            try:
                decoded = list(self.decode(part))
            except SigmaQuantError:
                raise
            except Exception as error:
                raise told("decode()", self.name, error) from error
            found += [_checked(one) for one in decoded]
        if len(found) != count:
            raise DataError(f"the decoding gives boxes of {len(found)} images for {count}. Give a triple for each.")
        return found

    def metric(self, outputs: Outputs, targets: Tensor) -> float:
        """The average precision."""
        return average_precisions(self.boxes(outputs), targets)[self.kind]

    def alike(self, outputs: Outputs, reference: Outputs) -> Tensor | None:
        """The share of sure boxes that both find."""
        pairs = zip(self.boxes(outputs), self.boxes(reference), strict=True)
        return torch.tensor([agreeing(*pair, self.score, self.overlap) for pair in pairs], dtype=torch.float64)

    def pictures(
        self, inputs: tuple[Tensor, ...], float_outputs: Outputs, outputs: Outputs, targets: Tensor
    ) -> Sequence[Picture]:
        """The first images in which something is, with the sure boxes of both networks."""
        check_box_targets(targets)
        shown = [index for index, rows in enumerate(targets[:, :, 4]) if bool((rows != PADDING).any())][:_SHOWN]
        if not shown or inputs[0].dim() != 4:
            return ()
        chosen = torch.tensor(shown)
        before, after = (self.boxes(map_outputs(lambda x: x[chosen], x)) for x in (float_outputs, outputs))
        height, width = inputs[0].shape[2:]
        scale = torch.tensor([width, height, width, height]) if self.pixels else torch.ones(4)
        found = []
        for place, index in enumerate(shown):
            rows = targets[index][targets[index, :, 4] != PADDING]
            truth = [self._box(row[:4] / scale, int(row[4]), None) for row in rows]
            sides = [
                tuple(
                    self._box(corners / scale, int(kind), float(score))
                    for corners, score, kind in zip(*one, strict=True)
                    if score >= self.score
                )
                for one in (before[place], after[place])
            ]
            image = image_url(self._shown(inputs[0][index]))
            found.append(Picture(image, int(width), int(height), tuple(truth), *sides))
        return found

    def _box(self, corners: Tensor, kind: int, score: float | None) -> Box:
        named = self.classes is not None and 0 <= kind < len(self.classes)
        x1, y1, x2, y2 = corners.clamp(0, 1).tolist()
        return Box(x1, y1, x2, y2, self.classes[kind] if named and self.classes else str(kind), score)

    def _shown(self, image: Tensor) -> Tensor:
        if self.image is not None:
            return self.image(image)
        image = image[:3] if len(image) >= 3 else image[:1]
        low, high = float(image.min()), float(image.max())
        return image if low >= 0 and high <= 1 else (image - low) / max(high - low, 1e-12)


def _checked(found: Any) -> Boxes:
    try:
        corners, scores, classes = (torch.as_tensor(x).detach().cpu() for x in found)
    except (TypeError, ValueError, RuntimeError):
        raise DataError("the decoding must give (boxes [n, 4], scores [n], classes [n]) for each image.") from None
    count = len(scores)
    if corners.numel() != 4 * count or len(classes) != count:
        raise DataError(
            f"the decoding gives boxes {tuple(corners.shape)}, scores {tuple(scores.shape)} and classes "
            f"{tuple(classes.shape)} for an image; they must be [n, 4], [n] and [n]."
        )
    return Boxes(corners.reshape(count, 4).float(), scores.float(), classes.long())

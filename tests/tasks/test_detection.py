"""Detection: boxes, their agreement, and average precision as COCO defines it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sigmaquant
from sigmaquant.errors import DataError, SigmaQuantError, TaskError
from sigmaquant.tasks import Boxes, Detection, average_precisions, box_targets, suppressed
from sigmaquant.tasks.boxes import agreeing, check_box_targets, overlaps


def boxes(*rows):
    """Rows of x1, y1, x2, y2, score, class."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].long())


A, B, C = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 1.0, 1.0), (0.02, 0.0, 0.42, 0.4)


def test_overlaps():
    found = overlaps(torch.tensor([A, B]), torch.tensor([A, C]))
    assert found[0, 0] == 1
    assert found[0, 1] == pytest.approx(0.38 / 0.42, rel=1e-5)
    assert found[1].tolist() == [0, 0]


def test_of_boxes_of_one_class_that_overlap_the_surest_stays():
    given = boxes((*A, 0.5, 1), (*C, 0.9, 1), (*C, 0.4, 2), (*B, 0.8, 1), (*B, 0.0, 1))
    assert suppressed(given).scores.tolist() == pytest.approx([0.9, 0.8, 0.4])
    assert suppressed(given, most=1).scores.tolist() == pytest.approx([0.9])
    assert len(suppressed(given, overlap=0.99).scores) == 4
    assert len(suppressed(boxes()).scores) == 0


def test_agreeing_is_the_share_that_both_have():
    one = boxes((*A, 0.9, 1), (*B, 0.8, 2))
    assert agreeing(one, one, 0.3, 0.75) == 1
    assert agreeing(one, boxes((*C, 0.7, 1), (*B, 0.8, 2)), 0.3, 0.75) == 1
    assert agreeing(one, boxes((*C, 0.7, 1)), 0.3, 0.95) == 0
    assert agreeing(one, boxes((*A, 0.2, 1), (*B, 0.8, 3)), 0.3, 0.75) == pytest.approx(1 / 3), "half as sure is enough"
    assert agreeing(boxes(), boxes((*A, 0.1, 0)), 0.3, 0.75) == 1, "neither is sure of any"
    assert agreeing(boxes((*A, 0.9, 1), (*A, 0.8, 1)), boxes((*A, 0.9, 1)), 0.3, 0.75) == pytest.approx(2 / 3)


def test_average_precision_by_hand():
    pytest.importorskip("pycocotools")
    truth = box_targets(
        [torch.tensor([A, B]), torch.tensor([A])],
        [torch.tensor([3, 3]), torch.tensor([5])],
        [torch.tensor([0, 0]), torch.tensor([0])],
    )
    perfect = [boxes((*A, 0.9, 3), (*B, 0.8, 3)), boxes((*A, 0.9, 5))]
    assert average_precisions(perfect, truth) == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1})
    # Class 3: one of two found, at first place: precision 1 up to recall 0.5, 51 of 101 points. Class 5: nothing.
    half = [boxes((*A, 0.9, 3), (*B, 0.8, 7)), boxes((*B, 0.9, 5))]
    assert average_precisions(half, truth)["ap50"] == pytest.approx(51 / 101 / 2)
    # A box that overlaps by 0.904 counts for 9 of the 10 thresholds.
    near = [boxes((*C, 0.9, 3), (*B, 0.8, 3)), boxes((*A, 0.9, 5))]
    shifted = average_precisions(near, truth)
    assert shifted["ap75"] == pytest.approx(1)
    assert shifted["ap"] == pytest.approx(((9 + 0.5 * 51 / 101) / 10 + 1) / 2)
    assert average_precisions([boxes(), boxes()], truth) == {"ap": 0, "ap50": 0, "ap75": 0}
    crowd = box_targets([torch.tensor([A, B])], [torch.tensor([3, 3])], [torch.tensor([1, 0])])
    assert average_precisions([boxes((*A, 0.9, 3), (*B, 0.8, 3))], crowd)["ap50"] == pytest.approx(1), (
        "crowds are left out"
    )
    with pytest.raises(DataError, match="there is none"):
        average_precisions([boxes()], box_targets([torch.zeros(0, 4)], [torch.zeros(0)]))


class Grid(nn.Module):
    """One box of one of three classes in each of four quarters: maps of how sure, where, and which."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 12, 3, padding=1)
        self.sure, self.place, self.kind = (nn.Conv2d(12, n, 8, stride=8) for n in (1, 4, 3))

    def forward(self, x):
        x = self.body(x).relu()
        return {"sure": self.sure(x), "rest": [self.place(x), self.kind(x)]}


def decode(returned):
    """One box a cell, around its centre."""
    sure, (place, kind) = returned["sure"], returned["rest"]
    y, x = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
    centre = torch.stack((x, y), 0) / 2 + 0.25
    half = 0.15 + 0.1 * place[:, 2:].sigmoid()
    corners = torch.cat((centre - half, centre + half), 1).flatten(2).movedim(1, 2)
    scores, classes = sure.flatten(1).sigmoid(), kind.argmax(1).flatten(1)
    return [suppressed(Boxes(*one)) for one in zip(corners, scores, classes, strict=True)]


def detector_and_data():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = Grid().eval(), torch.rand(24, 3, 16, 16)
    with torch.no_grad():
        found = decode(model(images))
    kept = [one.scores > 0.5 for one in found]
    return model, (images, box_targets([b.corners[k] for b, k in zip(found, kept, strict=True)],
                                       [b.classes[k] for b, k in zip(found, kept, strict=True)]))  # fmt: skip


def test_a_detector_from_quantize_to_verified_files(tmp_path):
    pytest.importorskip("pycocotools")
    model, data = detector_and_data()
    task = Detection(decode, classes=("cat", "dog", "cow"), score=0.5, compare=("values", "values", "logits"))
    result = sigmaquant.quantize(
        model, data, validation_data=data, task=task, budget="4x", run_dir=tmp_path, batch_size=12, cycle_examples=24,
        final_epochs=1, max_cycles=1, sensitivity_examples=12, export=["packed"],
    )  # fmt: skip
    assert result.float_scores.validation == pytest.approx(1)
    assert 0.5 < result.scores.validation <= 1
    assert not [note for note in result.notes if "only" in note and "is scored" in note]
    assert all(verdict.passed for verdict in result.files)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "AP50" in page


def test_what_a_detector_cannot_be_made_of():
    for options, message in (
        ({"decode": 3}, "decode must be a function, it is a int"),
        ({"decode": decode, "metric": "map"}, "there is no metric 'map' of detectors"),
        ({"decode": decode, "compare": ["kl"]}, "not as kl"),
        ({"decode": decode, "loss": 1}, "loss must be a function"),
    ):
        with pytest.raises(SigmaQuantError, match=message):
            Detection(**options)
    maps = torch.zeros(2, 1, 2, 2)
    for wrong in (
        lambda r: [(1, 2)] * 2,
        lambda r: [(torch.zeros(1, 4), torch.zeros(2), torch.zeros(2))] * 2,
        lambda r: [],
    ):
        with pytest.raises(DataError, match="decoding"):
            Detection(wrong).boxes(maps)
    with pytest.raises(TaskError, match=r"decode\(\) of the task 'detection' failed: TypeError"):
        Detection(lambda: 1).boxes(maps)
    with pytest.raises(DataError, match="returns 1 maps, but compare= names 2"):
        Detection(decode, compare=("values", "values")).parts(maps)
    with pytest.raises(DataError, match="box_targets"):
        check_box_targets(torch.zeros(2, dtype=torch.long))

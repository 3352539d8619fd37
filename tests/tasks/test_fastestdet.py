"""A real detector with three maps: its average precision by another program's rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sigmaquant.tasks import Boxes, Detection, average_precisions, box_targets, map_outputs, suppressed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def detector(shared_data: Path) -> Any:
    pytest.importorskip("pycocotools")
    pytest.importorskip("PIL")
    tasks = shared_data.parent / "tasks"
    if not (tasks / "load_coco.py").exists():
        pytest.skip("needs a detector and images of COCO: no folder `tasks` beside that of the trained networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.syspath_prepend(tasks)
        import detection
        import load_coco

        yield detection, load_coco, *detection.network_and_data(tasks, 12)
    for name in ("detection", "load_coco", "networks_detect"):
        sys.modules.pop(name, None)


def test_average_precision_as_another_program_has_it(detector: Any) -> None:
    detection, load_coco, network, _, validation = detector
    task: Detection = detection.task_of(network)
    images = torch.stack([validation[index][0] for index in range(12)])
    with torch.no_grad():
        maps = network(images)
    found = task.boxes(maps)
    _, truth = load_coco.load("val")
    expected = load_coco.ap([tuple(x.double().numpy() for x in one) for one in found], truth[:12])
    mine = average_precisions(found, validation.targets)
    assert mine["ap50"] == pytest.approx(expected["ap50"], abs=1e-6)
    assert mine["ap"] == pytest.approx(expected["ap"], abs=1e-6)
    assert task.metric(maps, validation.targets) == mine["ap50"] > 0.2
    assert task.alike(maps, maps).tolist() == [1.0] * 12
    noisy = map_outputs(lambda x: x + 0.02 * x.std() * torch.randn_like(x), maps)
    assert 0.5 < float(task.alike(noisy, maps).mean()) < 1


def test_suppression_as_another_program_does_it(detector: Any) -> None:
    _, load_coco, network, _, validation = detector
    with torch.no_grad():
        corners, scores, classes = network.decode(network(validation[0][0][None]))
    mine = suppressed(Boxes(corners[0], scores[0], classes[0]))
    theirs = load_coco.nms(corners[0].double().numpy(), scores[0].double().numpy(), classes[0].numpy())
    torch.testing.assert_close(mine.corners.double(), torch.from_numpy(theirs[0]))
    assert mine.classes.tolist() == theirs[2].tolist()


def test_pictures_have_boxes_of_both_networks(detector: Any) -> None:
    detection, _, network, _, validation = detector
    images = torch.stack([validation[index][0] for index in range(2)])
    with torch.no_grad():
        maps = network(images)
    (first, *_) = detection.task_of(network).pictures((images,), maps, maps, validation.targets[:2])
    assert first.image.startswith("data:image/jpeg;base64,")
    assert first.before == first.after != ()
    assert all(0 <= box.x1 <= box.x2 <= 1 for box in (*first.truth, *first.before))
    assert box_targets([torch.zeros(0, 4)], [torch.zeros(0)]).shape == (1, 1, 6)

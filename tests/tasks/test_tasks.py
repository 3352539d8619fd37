"""The shipped tasks, one by one: metric, loss, distance, decisions."""

from __future__ import annotations

import functools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score, r2_score

import command
from sigmaquant import evaluate_run, quantize
from sigmaquant.errors import DataError, MetricError, RunDirectoryError, SigmaQuantError, TaskError
from sigmaquant.runs import RunFiles
from sigmaquant.tasks import (
    TASKS,
    Classification,
    Embedding,
    Part,
    Regression,
    Segmentation,
    Task,
    TokenTagging,
    as_task,
    identity,
    known_task,
    make_task,
    mean_distance,
    task_loss,
)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_shipped_task_has_its_name_and_metric():
    assert list(TASKS) == ["classification", "regression", "detection", "segmentation", "embedding", "tagging"]
    assert [Segmentation.metric_name, Embedding.metric_name] == ["mIoU", "rank correlation"]


def test_regression():
    outputs, targets = drawn(50, 3), drawn(50, 3, seed=1)
    expected = r2_score(targets.numpy(), outputs.numpy(), multioutput="variance_weighted")
    task = Regression()
    assert task.metric(outputs, targets) == pytest.approx(expected)
    assert float(task_loss(task, outputs, targets)) == pytest.approx(float(F.mse_loss(outputs, targets)))
    assert Regression("negative_mae").metric(outputs, targets) == pytest.approx(
        -float((outputs - targets).abs().mean())
    )
    assert Regression("negative_rmse").metric(outputs, targets) == pytest.approx(
        -math.sqrt(F.mse_loss(outputs, targets))
    )
    assert [part.kind for part in task.parts(outputs)] == ["values"]
    with pytest.raises(MetricError, match="a target for each output"):
        task.metric(outputs, targets[:, 0])


def test_segmentation_is_the_mean_iou_of_what_is_there():
    outputs = drawn(4, 5, 6, 7)
    targets = torch.randint(0, 4, (4, 6, 7), generator=torch.Generator().manual_seed(3))
    targets[0, :2] = 255
    counted = targets != 255
    found, wanted = outputs.argmax(1)[counted].numpy(), targets[counted].numpy()
    labels = sorted(set(found) | set(wanted))
    task = Segmentation()
    assert task.metric(outputs, targets) == pytest.approx(jaccard_score(wanted, found, labels=labels, average="macro"))
    assert float(task_loss(task, outputs, targets)) == pytest.approx(
        float(F.cross_entropy(outputs, targets, ignore_index=255))
    )
    with pytest.raises(MetricError, match="target 255, but the network has 5 classes"):
        Segmentation(ignored=7).metric(outputs, targets)
    with pytest.raises(DataError, match="do not fit"):
        task.metric(outputs, targets[:, 0])


def test_small_maps_are_enlarged_to_the_targets():
    outputs = drawn(2, 3, 4, 4)
    large = F.interpolate(outputs, (8, 8), mode="bilinear", align_corners=False)
    targets = large.argmax(1)
    assert Segmentation().metric(outputs, targets) == 1


def test_a_map_is_compared_as_distributions_at_its_places():
    one, other = drawn(3, 5, 4, 4), drawn(3, 5, 4, 4, seed=1)
    p, q = other.log_softmax(1), one.log_softmax(1)
    expected = (p.exp() * (p - q)).sum(1).mean((1, 2))
    torch.testing.assert_close(Segmentation().distance(one, other), expected)
    tokens = TokenTagging().distance(one.flatten(2).movedim(1, 2), other.flatten(2).movedim(1, 2))
    torch.testing.assert_close(tokens, expected)
    assert Part("logits").change(one, other) == pytest.approx(float(expected.sum()), rel=1e-5)


def test_tagging_counts_labelled_tokens():
    outputs, targets = torch.eye(4)[None, [0, 1, 2, 3, 0]], torch.tensor([[0, 1, 3, 3, -100]])
    task = TokenTagging()
    assert task.metric(outputs, targets) == 0.75
    assert float(task_loss(task, outputs, targets)) == pytest.approx(
        float(F.cross_entropy(outputs[0, :4], targets[0, :4]))
    )
    assert task.alike(outputs, outputs.roll(1, 2)).tolist() == [0.0]


def test_embeddings_are_ranked():
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    task = Embedding()
    good, bad = torch.eye(3)[classes] + 0.01, torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert task.metric(good, classes) == pytest.approx(1)
    assert task.metric(bad, classes) < 0.1
    assert task.metric(torch.ones(6, 3), classes) == 0
    wanted = drawn(6, 4)
    assert task.metric(wanted * 3, wanted) == pytest.approx(1)
    pairs = (drawn(20, 8), drawn(20, 8, seed=1))
    similar = F.cosine_similarity(*pairs)
    assert task.metric(pairs, similar.square() * similar.sign()) == pytest.approx(1)
    assert float(task_loss(task, pairs, similar)) == pytest.approx(0, abs=1e-10)
    assert task.outputs(pairs) == pairs
    assert task.distance(pairs, (pairs[0] * 2, pairs[1])).abs().max() < 1e-6
    assert task.alike(good, torch.cat([good[:3], -good[3:]])).tolist() == [1, 1, 1, 0, 0, 0]


class Pair(Task):
    """Two outputs."""

    def metric(self, outputs, targets):
        return 1.0

    def outputs(self, returned):
        return returned["a"], returned["b"]

    def parts(self, outputs):
        return Part("values"), Part("logits", weight=0.5)


def test_several_outputs_are_added_up():
    one, other = ((drawn(4, 2, seed=i), drawn(4, 3, seed=i + 1)) for i in (0, 2))
    expected = Part("values").distances(one[0], other[0]) + 0.5 * Part("logits").distances(one[1], other[1])
    torch.testing.assert_close(Pair().distance(one, other), expected)
    assert float(mean_distance(Pair(), one, other)) == pytest.approx(float(expected.mean()))


def test_an_output_is_chosen_by_its_place():
    returned = {"heads": (torch.zeros(2, 3), torch.ones(2, 3)), "logits": torch.zeros(2, 4)}
    assert Classification().outputs(returned) is returned["logits"]
    assert Classification(output="heads.1").outputs(returned) is returned["heads"][1]
    assert Regression(output="x").outputs(SimpleNamespace(x=returned["logits"])) is returned["logits"]
    with pytest.raises(DataError, match=r"nothing at 'heads\.2'"):
        Classification(output="heads.2").outputs(returned)


def test_tasks_by_name():
    assert make_task("segmentation", {"ignored": 0}).ignored == (0,)
    for name, options, message in (
        ("segmentaton", {}, "there is no task 'segmentaton'. Did you mean 'segmentation'?"),
        ("tagging", {"ignore": 3}, "got an unexpected keyword argument 'ignore'"),
        ("detection", {}, "missing 1 required positional argument: 'decode'"),
        ("regression", {"metric": "top2"}, "there is no metric 'top2'"),
    ):
        with pytest.raises(SigmaQuantError, match=message):
            make_task(name, options)
    with pytest.raises(SigmaQuantError, match="the class Pair, not one of its objects"):
        as_task(Pair)
    with pytest.raises(SigmaQuantError, match="together with a task"):
        as_task("segmentation", outputs="values")


def test_metric_and_loss_take_the_place_of_a_tasks():
    def worst(outputs, targets):
        return -1.0

    def nothing(outputs, targets):
        return outputs.sum() * 0

    for name in ("segmentation", "classification"):
        task = as_task(name, worst, nothing)
        assert (task.metric_name, task.share, task.metric(drawn(2, 3), None)) == ("worst", False, -1.0)
        assert float(task.loss(drawn(2, 3), None)) == 0
        assert task.each(drawn(2, 3), torch.zeros(2)) is None
        assert as_task(name).metric_name != "worst", "the shipped one is as it was"


class Scaled(Task):
    def __init__(self, factor):
        self.factor = factor

    def metric(self, outputs, targets):
        """How good."""
        return self.factor


def test_the_identity_goes_by_options_and_code():
    assert identity(Scaled(1.0)) == identity(Scaled(1.0)) != identity(Scaled(2.0))

    def remade(body):
        scope = {"Task": Task}
        exec(f"class Mine(Task):\n    def metric(self, outputs, targets):\n        {body}\n", scope)
        return identity(scope["Mine"]())

    assert remade("return 1.0") == remade("return 2.0"), "no source is known"
    found = identity(Scaled(np.float32(1.0)))
    assert found["name"] == "Scaled"
    assert found["code"][0].startswith("Scaled ")


def test_the_identity_goes_by_what_functions_hold():
    def made(threshold, smoothing=0.0):
        def metric(outputs, targets, power=2):
            return float((outputs > threshold).double().mean()) ** power

        return identity(as_task(metric=metric, loss=torch.nn.CrossEntropyLoss(label_smoothing=smoothing)))

    assert made(0.5) == made(0.5)
    assert made(0.5) != made(0.25)
    assert made(0.5) != made(0.5, smoothing=0.1)

    def scaled(outputs, targets, factor):
        return factor

    one, other = (identity(as_task(metric=functools.partial(scaled, factor=f), outputs="values")) for f in (1.0, 2.0))
    assert one != other
    json.dumps([one, made(0.5)])


def test_a_known_task_comes_back_from_its_identity():
    for task in (
        as_task(),
        as_task(metric="r2", outputs="values"),
        Classification(output=1),
        Segmentation(ignored=3),
        Regression("negative_mae", loss=F.mse_loss),
        Embedding(cosine=0.9),
    ):
        again = known_task(identity(task))
        assert type(again) is type(task)
        assert again.metric_name == task.metric_name
        assert again.output == task.output
    assert known_task(identity(Segmentation(ignored=3))).ignored == (3,)
    for task in (Scaled(1.0), as_task(metric=lambda outputs, targets: 1.0), as_task("segmentation", lambda o, t: 1.0)):
        assert known_task(identity(task)) is None


def test_a_run_is_not_resumed_with_another_task(tmp_path):
    data = (drawn(40, 6), (drawn(40, 6).sum(1) > 0).long())
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    options = {"budget": "2x", "post_training": True, "run_dir": tmp_path}
    quantize(model, data, task=Agreeing(0.5), **options)
    again = quantize(model, data, task=Agreeing(0.5), resume=True, **options)
    assert again.met
    for other in (Agreeing(0.25), Classification(), None):
        with pytest.raises(RunDirectoryError, match=r"has another configuration: '(task|metric)"):
            quantize(model, data, task=other, resume=True, **options)
    with pytest.raises(MetricError, match="the run's task is 'Agreeing', made of functions that are not part of it"):
        evaluate_run(model, data, tmp_path)
    assert 0 < evaluate_run(model, data, tmp_path, task=Agreeing(0.5))["float"] <= 0.5


class Agreeing(Task):
    metric_name = "agreeing"

    def __init__(self, weight):
        self.weight = weight

    def metric(self, outputs, targets):
        return self.weight * float((outputs.argmax(1) == targets).double().mean())


def test_a_task_is_named_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch, sigmaquant\n"
        "from torch import nn\n"
        "torch.manual_seed(0)\n"
        "net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()\n"
        "x = torch.randn(20, 1, 6, 6)\n"
        "data = (x, net(x).argmax(1))\n"
        "def decode(returned):\n"
        "    return [(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))] * len(returned)\n"
        "class Mine(sigmaquant.tasks.Segmentation):\n"
        "    def __init__(self):\n"
        "        super().__init__(ignored=2)\n",
        encoding="utf-8",
    )
    common = ("mine.py:net", "--train", "mine.py:data", "--size", "2x", "--post-training", "--quiet", "--out")
    for number, task in enumerate(("segmentation?ignored=2", "mine.py:Mine")):
        outcome = command.main("quantize", *common, f"run{number}", "--task", task)
        assert outcome.code == 0, outcome.err
    config = RunFiles(tmp_path / "run0").read_config()
    assert (config["metric"], config["task"]["options"]["ignored"]) == ("mIoU", [2])
    outcome = command.main("evaluate", "run0", "--model", "mine.py:net", "--data", "mine.py:data")
    assert outcome.code == 0, outcome.err
    assert "mIoU" in outcome.out
    outcome = command.main("verify", "run1", "--model", "mine.py:net", "--data", "mine.py:data")
    assert "holds no exported file" in outcome.err
    outcome = command.main("export", "run1", "--model", "mine.py:net", "--data", "mine.py:data", "--to", "packed", "-q")
    assert outcome.code == 0, outcome.err
    for task, message in (
        ("detection", "missing 1 required positional argument: 'decode'"),
        ("segment", "there is no task 'segment'. Did you mean 'segmentation'"),
        ("detection?decode=mine.py:nothing", "has no 'nothing'"),
        ("mine.py:x", "the task is Tensor. Pass a name"),
    ):
        outcome = command.main("quantize", *common, "run9", "--task", task)
        assert outcome.code == 2
        assert message in outcome.err


@pytest.mark.parametrize("broken", ["outputs", "parts", "distance"])
def test_what_fails_in_a_task_of_ones_own_is_told(broken):
    def fails(self, *args):
        return {}["nothing"]

    kind = type("Mine", (Agreeing,), {broken: fails})
    data = (drawn(40, 6), (drawn(40, 6).sum(1) > 0).long())
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    with pytest.raises(TaskError, match=rf"{broken}\(\) of the task 'Mine' failed: KeyError: 'nothing'"):
        quantize(model, data, task=kind(1.0), budget="2x", post_training=True, control=True)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([Part("values")], "gives 1 parts for 2 outputs"),
        ([Part("values"), Part("logits", 2)], r"has classes along axis 2 of an output of shape \(4, 3\)"),
        ([Part("logits", 0), Part("values")], "the first axis is that of the examples"),
    ],
)
def test_parts_must_fit_the_outputs(parts, message):
    class Mine(Pair):
        def parts(self, outputs):
            return parts

    outputs = drawn(4, 2), drawn(4, 3)
    with pytest.raises(DataError, match=message):
        Mine().distance(outputs, outputs)

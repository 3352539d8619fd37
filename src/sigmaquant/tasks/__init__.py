"""What counts of a network: which outputs, loss, metric, distance to the float network, equal decisions."""

from sigmaquant.tasks.boxes import Boxes, average_precisions, box_targets, suppressed
from sigmaquant.tasks.counting import counting
from sigmaquant.tasks.dense import Segmentation, TokenTagging
from sigmaquant.tasks.detection import Detection
from sigmaquant.tasks.embedding import Embedding
from sigmaquant.tasks.identity import identity
from sigmaquant.tasks.losses import TaskLoss, cross_entropy, task_loss
from sigmaquant.tasks.metrics import METRICS, Metric, find_metric, metric_name, score, top1
from sigmaquant.tasks.parts import Part
from sigmaquant.tasks.pictures import Box, Picture
from sigmaquant.tasks.registry import TASKS, as_task, known_task, make_task
from sigmaquant.tasks.shortforms import Classification, OneOutput, Regression
from sigmaquant.tasks.structure import (
    Outputs,
    as_float32,
    check_examples,
    describe,
    joined,
    leaves,
    map_outputs,
)
from sigmaquant.tasks.task import Task, all_finite, floating, mean_distance, parts_of, same_form

__all__ = [
    "METRICS",
    "TASKS",
    "Box",
    "Boxes",
    "Classification",
    "Detection",
    "Embedding",
    "Metric",
    "OneOutput",
    "Outputs",
    "Part",
    "Picture",
    "Regression",
    "Segmentation",
    "Task",
    "TaskLoss",
    "TokenTagging",
    "all_finite",
    "as_float32",
    "as_task",
    "average_precisions",
    "box_targets",
    "check_examples",
    "counting",
    "cross_entropy",
    "describe",
    "find_metric",
    "floating",
    "identity",
    "joined",
    "known_task",
    "leaves",
    "make_task",
    "map_outputs",
    "mean_distance",
    "metric_name",
    "parts_of",
    "same_form",
    "score",
    "suppressed",
    "task_loss",
    "top1",
]

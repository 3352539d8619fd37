"""Models that cannot be traced: the message names the user's line and the remedy."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.errors import GraphExportError, ModelError
from sigmaquant.graph import trace
from sigmaquant.graph.exporting import export_graph
from sigmaquant.graph.inputs import Arguments


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Branch(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if y.sum() > 0:  # culprit
            return y
        return -y


class Item(Base):
    def forward(self, x: Tensor) -> Tensor:
        width = int(x.abs().max().item())  # culprit
        return self.layer(x)[:, :width]


class FixedView(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).view(2, 2, 2)  # culprit


class Comparison(Base):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 2:  # culprit
            return self.layer(x)
        return 2 * self.layer(x)


class Loop(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) for row in x])  # culprit


class Pairs(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(-1, 2, 4)).sum(1)  # culprit


class NumPy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.from_numpy(2 * x.numpy()))  # culprit


class Broken(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 3))  # culprit


class Output(Base):
    def forward(self, x: Tensor) -> object:
        return self.layer(x), object()


class Length(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[: len(x)]  # culprit


class Vmap(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.layer)(x)  # culprit


CASES = [
    (Length, ("batch", "len()")),
    (Vmap, ("torch.vmap", "whole batch")),
    (Branch, ("torch.where", "torch.cond")),
    (Item, (".item()", "Keep the value as a tensor")),
    (FixedView, ("batch", "-1")),
    (Comparison, ("batch", "compare")),
    (Loop, ("batch", "iterate")),
    (Pairs, ("batch", "-1")),
    (NumPy, ("NumPy",)),
    (Broken, ("does not run on the example", "invalid for input of size")),
]


@pytest.mark.parametrize(("kind", "words"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_message_names_line_and_remedy(kind, words, capfd):
    with pytest.raises(GraphExportError) as caught:
        trace(kind(), torch.ones(2, 4))
    message = str(caught.value)
    source = Path(__file__).read_text().splitlines()
    start = next(n for n, text in enumerate(source) if text.startswith(f"class {kind.__name__}("))
    line = next(n for n in range(start, len(source)) if "# culprit" in source[n]) + 1
    assert f"{__file__}:{line}" in message
    assert source[line - 1].strip() in message
    assert all(word in message for word in words), message
    assert "site-packages" not in message
    assert len(message) < 700
    # no wall of torch's own: neither in what Python prints for the exception nor on the screen
    assert "torch/export" not in "".join(traceback.format_exception(caught.value)).replace("torch.export", "")
    assert capfd.readouterr().err == ""


def test_unknown_output_type():
    with pytest.raises(GraphExportError, match="register_dataclass"):
        trace(Output(), torch.ones(2, 4))


def test_wrong_number_of_inputs():
    with pytest.raises(GraphExportError, match="does not run on the example"):
        trace(Branch(), (torch.ones(2, 4), torch.ones(2, 4)))


def test_model_is_restored_after_a_failure():
    model = Branch()
    with pytest.raises(GraphExportError):
        trace(model, torch.ones(2, 4))
    assert model.training
    assert type(model.layer.weight) is nn.Parameter
    assert model(torch.ones(3, 4)).shape == (3, 4)


def test_no_layer():
    with pytest.raises(ModelError, match="no quantizable layer"):
        trace(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), torch.ones(2, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite(value):
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.data[1, 2] = value
    with pytest.raises(ModelError, match=r"'0\.weight'"):
        trace(model, torch.ones(2, 4))


@pytest.mark.parametrize("example", [(), "image", ({"x": 1},)])
def test_example_of_wrong_type(example):
    with pytest.raises(ModelError, match="tensor"):
        trace(nn.Linear(4, 4), example)


def test_empty_batch():
    with pytest.raises(GraphExportError, match="empty"):
        trace(nn.Linear(4, 4), torch.ones(0, 4))


def test_name_that_the_graph_needs():
    model = nn.Sequential()
    model.add_module("graph", nn.Linear(4, 4))
    with pytest.raises(ModelError, match="'graph'"):
        trace(model, torch.ones(2, 4))


def test_torch_logs_nothing_beside_the_error() -> None:
    class Printed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    class Logging(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logging.getLogger("torch").warning("traceback")
            if x.sum() > 0:
                return x
            return -x

    records: list[logging.LogRecord] = []
    handler = Printed()
    logging.getLogger("torch").addHandler(handler)
    try:
        with pytest.raises(GraphExportError, match=r"torch\.export cannot"):
            export_graph(Logging(), Arguments((torch.zeros(2, 3),), {}))
    finally:
        logging.getLogger("torch").removeHandler(handler)
    assert len(records) == 1, "what the model logs when it is run by itself"
    assert not handler.filters


def test_a_sparse_example():
    with pytest.raises(ModelError, match=r"sparse_coo.*to_dense"):
        trace(Base(), torch.ones(2, 4).to_sparse())


@pytest.mark.parametrize("name", ["torch.autocast", "torch.cond"])
def test_layers_that_all_stay_in_float(name):
    class Region(Base):
        def forward(self, x: Tensor) -> Tensor:
            if name == "torch.cond":
                return torch.cond(x.sum() > 0, self.layer, lambda y: -self.layer(y), (x,))
            with torch.autocast("cpu", torch.bfloat16):
                return self.layer(x)

    with pytest.raises(ModelError, match=rf"no quantizable layer outside of {name}.*stays in float"):
        trace(Region(), torch.ones(2, 4))

"""What models are called with and what they return: keywords, dicts, nested inputs, objects, what a call leaves."""

from __future__ import annotations

import copy
from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmaquant.errors import GraphExportError, ModelError
from sigmaquant.graph import QuantGraph, trace


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(3, 4)


X, Y = torch.randn(2, 4), torch.randn(2, 3)


def names(graph: QuantGraph) -> list[str]:
    return [node.name for node in graph.module.graph.nodes if node.op == "placeholder"]


def operators(graph: QuantGraph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


def test_keywords_alone():
    class Keywords(Two):
        def forward(self, *, first: Tensor, second: Tensor | None = None, double: bool = False) -> Tensor:
            found = self.a(first) if second is None else self.a(first) + self.b(second)
            return 2 * found if double else found

    model = Keywords()
    graph = trace(model, {"second": Y, "first": X})
    assert names(graph) == ["first", "second"], "in the order of the signature"
    assert graph.input_shapes == ((4,), (3,))
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    assert torch.equal(graph.module(x, y), model(first=x, second=y))
    assert torch.equal(graph.module(first=x, second=y), model(first=x, second=y))
    doubled = trace(model, {"first": X, "double": True})
    assert names(doubled) == ["first"], "what is no tensor is a constant"
    assert torch.equal(doubled.module(x), 2 * model.a(x))


def test_keywords_without_names():
    class Open(Two):
        def forward(self, x: Tensor, **more: Tensor) -> Tensor:
            return self.a(x) - self.b(more["other"])

    model = Open()
    graph = trace(model, {"other": Y, "x": X})
    x, y = torch.randn(3, 4), torch.randn(3, 3)
    assert torch.equal(graph.module(x, y), model(x, other=y))
    assert "forward" not in vars(model)


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_dict_as_the_only_argument(kind):
    class Batch(Two):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.a(batch["x"]) + self.b(batch["y"])

    model = Batch()
    for example in (kind(x=X, y=Y), (kind(x=X, y=Y),)):
        graph = trace(model, example)
        x, y = torch.randn(3, 4), torch.randn(3, 3)
        assert torch.equal(graph.module(x, y), model({"x": x, "y": y}))


def test_nested_inputs_and_outputs():
    class Nested(Two):
        def forward(self, x: Tensor, state: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, dict[str, list[Tensor]]]:
            first, (second, _) = state
            y = self.a(x) + self.b(first)
            return y, {"state": [y + second, first]}

    model = Nested()

    def state(count: int) -> tuple[Tensor, list[Tensor]]:
        return torch.randn(count, 3), [torch.randn(count, 4), torch.randn(count, 1)]

    graph = trace(model, (X, state(2)))
    x, (a, (b, c)) = torch.randn(5, 4), state(5)
    expected, found = model(x, (a, [b, c])), graph.module(x, a, b, c)
    assert type(found) is tuple
    assert torch.equal(found[0], expected[0])
    assert all(map(torch.equal, found[1]["state"], expected[1]["state"]))
    assert len(graph.input_shapes) == 4


@pytest.mark.parametrize("example", ["text", {}, (), {"x": object()}, (X, object()), 3])
def test_an_example_that_is_none(example):
    with pytest.raises(ModelError, match="the example must be"):
        trace(Two(), example)


def test_wrong_keywords():
    class Strict(Two):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    with pytest.raises(GraphExportError, match=r"'z'.*model\(\*\*inputs\)"):
        trace(Strict(), {"x": X, "z": Y})


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    logits: Tensor
    inner: Output


class Plain:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.name = logits, "plain"


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(4, 4), kind

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        made = {
            "dataclass": lambda: Output(y, (x, y)),
            "missing": lambda: Output(y),
            "frozen": lambda: Sealed(y, Output(2 * y)),
            "object": lambda: Plain(y),
            "inside": lambda: {"a": [Plain(y)]},
        }
        return made[self.kind]()


@pytest.mark.parametrize("kind", ["dataclass", "missing", "frozen", "object", "inside"])
def test_objects_are_returned_as_they_are(kind):
    model = Returns(kind)
    graph, x = trace(model, X), torch.randn(3, 4)
    for module in (graph.module, copy.deepcopy(graph.module)):
        expected, found = model(x), module(x)
        assert type(found) is type(expected)
        if kind == "inside":
            expected, found = expected["a"][0], found["a"][0]
        assert torch.allclose(found.logits, expected.logits, atol=1e-6)  # attention is written out
        if kind == "dataclass":
            assert torch.equal(found.hidden[1], expected.hidden[1])
        if kind == "frozen":
            assert torch.equal(found.inner.logits, expected.inner.logits)
        if kind == "object":
            assert found.name == "plain"


def test_a_cache_is_no_output():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 32, (2, 6))
    graph = trace(model, {"input_ids": tokens})
    words = torch.randint(0, 32, (3, 6))
    with torch.no_grad():
        expected, found = model(input_ids=words), graph.module(words)
    assert type(found) is type(expected)
    assert torch.allclose(found.logits, expected.logits, atol=1e-6)  # attention is written out
    assert len(list(expected.keys())) == 2
    assert list(found.keys()) == ["logits"]


class KeepsShape(nn.Module):
    """Like the heads of detectors: positions are made anew only where the shape is not that of the last call."""

    shape: torch.Size | None = None

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.columns = torch.empty(0)
        self.made: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.shape != y.shape:
            self.columns = torch.arange(y.shape[3], device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
            self.shape = y.shape
            self.made["rows"] = torch.zeros(1, device=x.device)
        return y + self.columns + self.made["rows"]


@pytest.mark.parametrize("before", [None, 1, 2, 7, 16])
def test_a_kept_shape(before):
    model = KeepsShape()
    if before:
        model(torch.randn(before, 3, 4, 5))
    kept, rows = model.shape, model.made.get("rows")
    graph = trace(model, torch.zeros(before or 2, 3, 4, 5))
    assert model.shape == kept
    assert model.made.get("rows") is rows, "no fake tensor stays behind"
    for batch in (1, 2, 3, 7, 16):
        x = torch.randn(batch, 3, 4, 5)
        assert torch.equal(graph.module(x), KeepsShape.forward(model, x))


def test_a_kept_shape_that_changes_the_result_is_refused():
    class Counts(KeepsShape):
        def forward(self, x: Tensor) -> Tensor:
            same = self.shape == x.shape
            self.shape = x.shape
            return self.conv(x) if same else 2 * self.conv(x)

    model = Counts()
    model(torch.randn(16, 3, 4, 5))
    with pytest.raises(GraphExportError, match=r"same = self\.shape == x\.shape"):
        trace(model, torch.zeros(16, 3, 4, 5))


def test_autocast_that_is_off_is_no_region():
    class Off(Two):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast(device_type=x.device.type, enabled=False):
                y = self.a(x.float())
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                return y + self.a(y)

    model = Off()
    graph, x = trace(model, X), torch.randn(3, 4)
    assert torch.equal(graph.module(x), model(x))
    assert [spec.name for spec in graph.layers] == ["a"]
    assert graph.layers[0].calls == 2
    assert graph.float_macs == 0
    assert graph.float_operators == ()


class Flattens(nn.Module):
    def __init__(self, flatten) -> None:
        super().__init__()
        self.conv, self.flatten, self.linear = nn.Conv2d(3, 4, 3, padding=1), flatten, nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(F.max_pool2d(F.relu(self.conv(x)), 2)))


@pytest.mark.parametrize(
    "flatten",
    [
        lambda y: y.view(y.size(0), -1),
        lambda y: y.view(-1, 64),
        lambda y: y.view(y.shape[0], y.shape[1] * y.shape[2] * y.shape[3]),
        lambda y: y.reshape(y.shape[0], -1),
        lambda y: y.flatten(1),
        lambda y: y.view(y.size(0), 4, -1)[: y.size(0)].view(y.shape[0], -1),
        lambda y: y.expand(y.size(0), -1, 4, 4).view(y.size(0), 64),
    ],
)
def test_sizes_read_from_shapes_leave_nothing_behind(flatten):
    model = Flattens(flatten)
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    assert not [name for name in operators(graph) if "sym_size" in name or "aten.view" in name]
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        expected = model(x)
        assert torch.equal(graph.module(x), expected)
        twin = copy.deepcopy(graph.module).to(memory_format=torch.channels_last)
        found = twin(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected)


def test_an_example_in_channels_last():
    model = Flattens(lambda y: y.view(y.size(0), -1))
    x = torch.randn(2, 3, 8, 8)
    graph = trace(model, x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(graph.module(x), model(x))


def test_a_view_that_is_written_into_stays_one():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            y.view(-1, 2, 2)[:, 0] += 1.0
            return y

    model = Writes()
    graph, x = trace(model, X), torch.randn(3, 4)
    assert torch.equal(graph.module(x), model(x))


def test_strides_are_those_of_the_plain_layout():
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y.as_strided((y.size(0), 4, 2, 2), (64, 16, 8, 2))

    model = Strided()
    graph, x = trace(model, torch.zeros(2, 3, 4, 4)), torch.randn(3, 3, 4, 4)
    twin = copy.deepcopy(graph.module).to(memory_format=torch.channels_last)
    torch.testing.assert_close(twin(x.contiguous(memory_format=torch.channels_last)), model(x))


def test_a_tuple_for_keywords_alone():
    class Keywords(Two):
        def forward(self, first: Tensor, *, second: Tensor, third: Tensor | None = None) -> Tensor:
            return self.a(first) + self.b(second) + (0 if third is None else third)

    model = Keywords()
    for example in ((X, Y), (X, Y, X)):
        graph = trace(model, example)
        given = tuple(torch.randn(3, x.shape[1]) for x in example)
        expected = model(given[0], **dict(zip(("second", "third"), given[1:], strict=False)))
        assert torch.equal(graph.module(*given), expected)
    with pytest.raises(GraphExportError, match="does not run"):
        trace(model, (X, Y, X, X))

"""Models in other precisions, in wrappers, and those of which nothing can be read."""

from __future__ import annotations

import copy
import logging
import threading

import pytest
import torch
from torch import nn

from sigmaquant.errors import ModelError
from sigmaquant.graph import trace
from sigmaquant.graph.copying import copied
from sigmaquant.graph.reading import read_copy, readable
from sigmaquant.quant import prepare
from sigmaquant.workflow.inspection import inspect_model
from sigmaquant.workflow.loading import weights_digest

EXAMPLE = torch.zeros(2, 3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(kind: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    model = network().to(kind)
    with caplog.at_level(logging.INFO, "sigmaquant"):
        graph = trace(model, EXAMPLE.to(kind))
    assert f"because its parameter '0.weight' is {str(kind).removeprefix('torch.')};" in caplog.text
    assert graph.fingerprint == trace(network(), EXAMPLE).fingerprint
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(graph.module(x), copy.deepcopy(model).float()(x))
    assert {parameter.dtype for parameter in model.parameters()} == {kind}, "the user's stays as it is"
    assert graph.module.get_submodule("1").num_batches_tracked.dtype == torch.int64
    assert weights_digest(model) == weights_digest(copy.deepcopy(model).float())
    assert inspect_model(model, (EXAMPLE.to(kind),), (4,)).layers[0].sigma > 0


def test_one_parameter_of_another_precision() -> None:
    model = network()
    model[4].half()
    assert {p.dtype for p in readable(model).parameters()} == {torch.float32}
    assert model[4].weight.dtype == torch.float16


def test_a_float32_model_is_read_itself() -> None:
    model = network()
    model.register_buffer("table", torch.ones(2, dtype=torch.float64))
    assert readable(model) is model
    twin = read_copy(model)
    assert twin is not model
    assert twin.table.dtype == torch.float64


def test_ties_survive_the_conversion() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    twin = readable(model.half())
    assert twin["b"].weight is twin["a"].weight
    assert twin["a"].weight is not model["a"].weight


def test_integer_inputs_stay_and_floating_ones_become_float32() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(tokens) + x)

    graph = trace(Both().half(), (torch.zeros(2, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.float16)))
    kinds = [node.meta["val"].dtype for node in graph.module.graph.nodes if node.op == "placeholder"]
    assert kinds == [torch.int64, torch.float32]


@pytest.mark.parametrize("nested", [False, True])
def test_what_torch_compile_wraps_has_the_users_names(nested: bool) -> None:
    model = network()
    plain = nn.Sequential(model, nn.Identity()) if nested else model
    compiled = nn.Sequential(torch.compile(model), nn.Identity()) if nested else torch.compile(model)
    graph = trace(compiled, EXAMPLE)
    assert list(graph.layer) == (["0.0", "0.4"] if nested else ["0", "4"])
    assert graph.fingerprint == trace(plain, EXAMPLE).fingerprint
    assert weights_digest(compiled) == weights_digest(plain)
    copied = read_copy(compiled)
    assert list(copied.state_dict()) == list(plain.state_dict())
    assert not any(p is q for p in copied.parameters() for q in plain.parameters())


def test_a_users_own_wrapper_is_no_wrapper_of_torch_compile() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self._orig_mod(x)

    model = Doubled()
    assert readable(model) is model
    assert list(trace(model, torch.zeros(2, 4)).layer) == ["_orig_mod"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_is_refused(how: str, nested: bool) -> None:
    scripted = torch.jit.trace(network(), EXAMPLE) if how == "trace" else torch.jit.script(network())
    model = nn.Sequential(scripted) if nested else scripted
    what = "the model's module '0'" if nested else "the model"
    for door in (lambda: trace(model, EXAMPLE), lambda: read_copy(model), lambda: weights_digest(model)):
        with pytest.raises(ModelError, match=rf"{what} is TorchScript .*state_dict") as caught:
            door()
        assert caught.value.exit_code == 2


def test_a_lazy_module_that_never_ran_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    for door in (lambda: trace(model, EXAMPLE), lambda: read_copy(model), lambda: weights_digest(model)):
        with pytest.raises(ModelError, match=r"'1\.weight' has no shape yet: .* Run the model once on an example"):
            door()
    model(EXAMPLE)
    assert list(trace(model, EXAMPLE).layer) == ["1"]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_results_that_a_module_keeps_are_copied_as_constants() -> None:
    """As one that shows its features, or that normalises its weight before each call."""
    model = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(192, 4)), nn.ReLU(), nn.Linear(4, 3)).eval()
    model[2].kept = {"features": [model[:3](EXAMPLE)]}
    model[3].register_forward_hook(lambda module, inputs, output: setattr(module, "last", output))
    model(EXAMPLE)
    twin = copied(model)
    assert not twin[2].kept["features"][0].requires_grad
    assert model[2].kept["features"][0].requires_grad
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        model[1].weight_g.mul_(2)
    assert not torch.equal(twin(x), model(x)), "the copy has weights of its own"
    network = prepare(trace(model, EXAMPLE))
    assert torch.equal(network(x), model(x))
    assert inspect_model(model, (EXAMPLE,), (4,)).layers[0].spec.name == "1"


def test_what_cannot_be_copied_is_named() -> None:
    model = network()
    model[4].lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be copied because of its attribute '4\.lock': TypeError: .*deepcopy"):
        read_copy(model)


def test_weights_without_values_are_refused() -> None:
    model = network().to("meta")
    for door in (lambda: trace(model, EXAMPLE), lambda: read_copy(model)):
        with pytest.raises(ModelError, match=r"'0\.weight' has no values: it is on the meta device"):
            door()


def test_words_of_pythons_grammar_are_no_names_of_modules() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleDict({"class": nn.Linear(4, 2)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.heads["class"](x)

    with pytest.raises(ModelError, match=r"the model's 'heads\.class' is named by 'class', a word of Python's grammar"):
        trace(Heads(), torch.zeros(2, 4))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_weight_norm_is_read_as_the_weight_that_it_computes(norm) -> None:
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    names = [name for name, _ in model.named_parameters()]
    graph = trace(model, EXAMPLE)
    assert list(graph.layer) == ["0", "2"]
    assert torch.equal(graph.module(EXAMPLE), model(EXAMPLE))
    assert [name for name, _ in model.named_parameters()] == names

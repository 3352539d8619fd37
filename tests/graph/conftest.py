"""What every traced model must fulfil."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sigmaquant.graph import QuantGraph, trace


def _inputs(examples: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    made = []
    for x in examples:
        shape = (batch, *x.shape[1:])
        if x.is_floating_point():
            made.append(torch.randn(shape, generator=generator))
        else:
            made.append(torch.randint(0, int(x.max()) + 1, shape, generator=generator))
    return tuple(made)


def _check(model: nn.Module, *examples: Tensor) -> QuantGraph:
    """Trace, then assert equality for several batch sizes, complete accounting, ties, metadata and copies."""
    graph = trace(model, examples)
    was_training = model.training
    model.eval()
    graph.module.eval()
    for batch in (1, 3):
        inputs = _inputs(examples, batch)
        torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder rounds otherwise than its layers
        try:
            expected, actual = model(*inputs), graph.module(*inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        assert type(actual) is type(expected)
        for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True):
            # attention is written out, which torch's fused kernel sums in another order, as it does in cells
            apart = any("softmax" in node.name or "lstm" in node.name for node in graph.module.graph.nodes)
            close = torch.allclose(a, b, rtol=1e-5, atol=1e-6) if apart else torch.equal(a, b)
            assert close, f"batch {batch}: largest difference {(a - b).abs().max()}"
    model.train(was_training)
    graph.module.train(was_training)

    accounted = [spec.parameter for spec in graph.layers] + [p.name for p in graph.float_parameters]
    assert sorted(accounted) == sorted(name for name, _ in model.named_parameters())
    assert len({spec.name for spec in graph.layers}) == len(graph.layers)
    elements = sum(spec.elements for spec in graph.layers) + sum(p.elements for p in graph.float_parameters)
    assert elements == sum(p.numel() for p in model.parameters())
    norms = {spec.batch_norm for spec in graph.layers if spec.batch_norm}
    for parameter in graph.float_parameters:
        assert parameter.reason
        assert parameter.absorbed == (parameter.name.rpartition(".")[0] in norms)

    clone = copy.deepcopy(graph.module)
    for spec in graph.layers:
        assert graph.weight(spec.name) is model.get_parameter(spec.parameter)
        for module in (graph.module, clone):
            weight = module.get_submodule(spec.name).weight
            assert tuple(weight.shape) == spec.weight_shape
            assert all(module.get_submodule(name).weight is weight for name in spec.tied)
        assert clone.get_submodule(spec.name).weight is not graph.weight(spec.name)
    for node in graph.module.graph.nodes:
        assert "val" in node.meta, node
        assert "_assert" not in str(node.target)
        assert "guard" not in str(node.target)
        assert "dropout" not in str(node.target)
    return graph


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits, and on a busy machine makes the first one wait too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def check() -> Callable[..., QuantGraph]:
    """`check(model, *examples)` traces a model and asserts what must hold for every model."""
    return _check


def _train_one_step(graph: QuantGraph, *examples: Tensor, batch: int = 4) -> None:
    """One optimiser step on a copy: every parameter with a gradient moves, BatchNorm statistics move."""
    module = copy.deepcopy(graph.module).train()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    statistics = [norm.running_var.clone() for norm in norms]
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    output = pytree.tree_leaves(module(*_inputs(examples, batch)))[0]
    loss = (output - torch.linspace(-1, 1, output.numel()).view(output.shape)).square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}
    for gradient in gradients.values():
        gradient.sign_()  # below a BatchNorm they can be too small to move a float
    optimizer.step()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(gradients)
    assert len(moved) > len(graph.layers) // 2
    assert all(not torch.equal(norm.running_var, old) for norm, old in zip(norms, statistics, strict=True))
    for spec in graph.layers:  # the user's own weights stay
        assert torch.equal(graph.weight(spec.name), before.get(f"{spec.name}.weight", graph.weight(spec.name)))


@pytest.fixture
def train_one_step() -> Callable[..., None]:
    """`train_one_step(graph, *examples)` trains a copy of the graph for one step and asserts that it moves."""
    return _train_one_step

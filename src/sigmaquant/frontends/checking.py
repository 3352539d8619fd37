"""A network that was read from a file, held against the runtime that the file was made for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from sigmaquant.errors import ModelFileError

log = logging.getLogger("sigmaquant")


def random_inputs(
    network: nn.Module, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype], examples: int
) -> tuple[Tensor, ...]:
    """Inputs that reach every part of a network: normal values; indices that its embeddings have, else ones.

    Args:
        network: a graph module.
        shapes: of one example of each input, without the batch.
        dtypes: of each input.
        examples: how many.
    """
    generator = torch.Generator().manual_seed(0)
    rows = _rows(network)
    found = []
    for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        size = (examples, *shape)
        if dtype.is_floating_point:
            found.append(torch.randn(size, generator=generator, dtype=torch.float32).to(dtype))
        else:
            found.append(
                torch.randint(0, rows[index], size, generator=generator).to(dtype)
                if rows[index]
                else torch.ones(size, dtype=dtype)
            )
    return tuple(found)


def _rows(network: nn.Module) -> list[int]:
    """For each input, the number of rows of the embedding that it is an index of; 0: of none."""
    assert isinstance(network, fx.GraphModule), "front ends make graph modules"
    found = []
    for node in network.graph.nodes:
        if node.op == "placeholder":
            sizes = [
                module.num_embeddings
                for user in node.users
                if user.op == "call_module" and isinstance(module := network.get_submodule(user.target), nn.Embedding)
            ]
            found.append(min(sizes, default=0))
    return found


def check_same(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    expected: Sequence[Tensor],
    path: str,
    runtime: str,
    tolerance: float = 1e-4,
) -> None:
    """Raise where a network does not compute what its file's own runtime computes.

    Args:
        network: read from the file.
        inputs: what both were given.
        expected: the runtime's outputs.
        path: of the file, for messages.
        runtime: its name, for messages.
        tolerance: largest difference, as a part of the largest of the output's values.

    Raises:
        ModelFileError: another shape, or values that differ.
    """
    with torch.no_grad():
        outputs: list[Any] = pytree.tree_leaves(network(*inputs))
    if len(outputs) != len(expected):
        raise ModelFileError(f"{path} has {len(expected)} outputs in {runtime}, but {len(outputs)} as a module.")
    for index, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        if ours.shape != theirs.shape:
            raise _defect(
                path, f"output {index} has the shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}", runtime
            )
        first, second = ours.double(), theirs.double()
        scale = float(second[torch.isfinite(second)].abs().max()) if bool(torch.isfinite(second).any()) else 0.0
        if not torch.allclose(first, second, rtol=0.0, atol=tolerance * scale + 1e-7, equal_nan=True):
            difference = float((first - second).abs().nan_to_num(torch.inf).max())
            raise _defect(
                path, f"output {index} differs by up to {difference:.3g}, where it reaches {scale:.3g}", runtime
            )
    log.info("%s: the module computes what %s computes, on %d random inputs", path, runtime, len(inputs[0]))


def _defect(path: str, what: str, runtime: str) -> ModelFileError:
    return ModelFileError(
        f"{path} was read, but the module does not compute what {runtime} computes: {what}. So it is refused. This is "
        "a defect of the reader, please report it with the file; until then, give the PyTorch module it was made of."
    )

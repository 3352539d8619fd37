"""Embeddings: vectors whose similarities are to have the right order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmaquant.errors import MetricError
from sigmaquant.tasks.parts import Part
from sigmaquant.tasks.structure import Outputs, leaves
from sigmaquant.tasks.task import Task

_MOST = 1024
"""Examples of which all pairs are ranked; of more, every n-th is taken."""


class Embedding(Task):
    """Vectors [N, D], scored by the rank correlation (Spearman's) of their cosine similarities with the wanted ones.

    Where the network embeds one input, similarities are those of all pairs of examples; wanted is 1 for two of one
    class and 0 for others (integer targets [N]), or the cosine similarity of the targets (vectors [N, K]). Where it
    returns two vectors for each example, a pair, the wanted similarities of the pairs are the targets, [N].

    The distance is ``1 - cosine`` to the float network's vectors. Decisions are alike where the cosine of a file's
    vector with the wanted one is at least `cosine`.

    Args:
        cosine: see above.
        output: see `Task`; None: all tensors that the network returns, one or two.
    """

    name, metric_name = "embedding", "rank correlation"

    def __init__(self, cosine: float = 0.99, output: int | str | None = None) -> None:
        self.cosine, self.output = cosine, output

    def outputs(self, returned: Outputs) -> Outputs:
        """The vector, or both."""
        if self.output is not None:
            return super().outputs(returned)
        found = leaves(returned)
        return tuple(found[:2]) if len(found) > 1 else super().outputs(returned)

    def metric(self, outputs: Outputs, targets: Tensor) -> float:
        """Spearman's correlation; 0 where all similarities are the same."""
        from scipy.stats import spearmanr

        found = [x.reshape(len(x), -1).double() for x in leaves(outputs)]
        if len(found) == 2:
            similar, wanted = F.cosine_similarity(found[0], found[1]), targets.double()
            if wanted.shape != similar.shape:
                raise MetricError(
                    f"the embeddings are pairs, whose wanted similarities must be [N], not {tuple(targets.shape)}."
                )
        else:
            every = -(-len(targets) // _MOST)
            pairs = torch.triu_indices(len(targets[::every]), len(targets[::every]), 1)
            similar = _cosines(found[0][::every])[pairs[0], pairs[1]]
            wanted = _wanted(targets[::every])[pairs[0], pairs[1]]
        similar = similar.round(decimals=9)  # what is equal but for roundings has one rank
        if float(wanted.max() - wanted.min()) == 0:
            raise MetricError("the wanted similarities are all the same: there is no order to compare with.")
        value = float(spearmanr(similar.numpy(), wanted.numpy()).statistic) if similar.std() > 0 else 0.0
        return value if value == value else 0.0

    def parts(self, outputs: Outputs) -> tuple[Part, ...]:
        """Values."""
        return tuple(Part("values") for _ in leaves(outputs))

    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> Tensor:
        """``1 - cosine``, the mean of both vectors of a pair."""
        return torch.stack([1 - _cosine(x, y) for x, y in _both(outputs, reference)]).mean(0)

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor | None:
        """Of pairs: the squared difference of their cosine from the wanted one. Single vectors can be distilled only.

        Raises:
            MetricError: single vectors.
        """
        found = leaves(outputs)
        if len(found) != 2:
            raise MetricError("single embeddings have no loss here. Distil only (distill=1), or give a loss.")
        return F.mse_loss(_cosine(found[0], found[1]), targets.to(found[0].dtype))

    def alike(self, outputs: Outputs, reference: Outputs) -> Tensor | None:
        """Where the vectors point the same way."""
        near = [_cosine(x.double(), y.double()) >= self.cosine for x, y in _both(outputs, reference)]
        return torch.stack(near).all(0).double()


def _both(outputs: Outputs, reference: Outputs) -> list[tuple[Tensor, Tensor]]:
    return list(zip(leaves(outputs), leaves(reference), strict=True))


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(one.reshape(len(one), -1), other.reshape(len(other), -1))


def _cosines(vectors: Tensor) -> Tensor:
    unit = F.normalize(vectors, dim=1)
    return unit @ unit.T


def _wanted(targets: Tensor) -> Tensor:
    if targets.dim() == 1 and not targets.is_floating_point():
        return (targets[:, None] == targets[None]).double()
    if targets.dim() == 2 and targets.is_floating_point():
        return _cosines(targets.double())
    raise MetricError(
        f"single embeddings need classes [N] or wanted vectors [N, K] as targets, not {targets.dtype} of shape "
        f"{tuple(targets.shape)}."
    )

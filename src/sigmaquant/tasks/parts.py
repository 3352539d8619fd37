"""How one output is compared with the float network's: as a distribution over classes, or by its squares."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["logits", "values"]


@dataclass(frozen=True)
class Part:
    """How one of the outputs that count is compared.

    Attributes:
        kind: ``"logits"`` are distributions over classes, compared by ``KL(float || found)`` in nats, in the mean over
            the places of a map; ``"values"`` are compared by their squared difference relative to the variance.
        axis: along which the classes lie.
        weight: in the sum over several outputs.
        counted: [N, length]: which positions of each example count, along the first axis behind the batch that is as
            long and not that of the classes; None, or where there is no such axis: all.
    """

    kind: Kind
    axis: int = 1
    weight: float = 1.0
    counted: Tensor | None = field(default=None, compare=False, repr=False)

    def distances(self, found: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Of each example, [N]; with a temperature T the divergence is that of ``softmax(x / T)``, times ``T²``."""
        if self.kind == "logits":
            logs, theirs = (F.log_softmax(x / temperature, self.axis) for x in (found, reference))
            apart = F.kl_div(logs, theirs, reduction="none", log_target=True).sum(self.axis) * temperature**2
        else:
            counting = self._counting(reference)
            values = reference if counting is None else reference[counting.expand_as(reference)]
            apart = (found - reference).square() / values.var(correction=0).clamp_min(1e-12)
        shares = self._shares(reference)
        if shares is None:
            return apart.reshape(len(apart), -1).mean(1)
        return (apart * (shares.squeeze(self.axis) if self.kind == "logits" else shares)).flatten(1).sum(1)

    def change(self, found: Tensor, reference: Tensor) -> float:
        """What a change of the outputs does, summed over the examples; meaningful relative to `norm`."""
        if self.kind == "values":
            return float(self._kept(found.double() - reference.double()).square().sum())
        p, q = reference.double().log_softmax(self.axis), found.double().log_softmax(self.axis)
        apart, shares = p.exp() * (p - q), self._shares(reference)
        if shares is not None:
            return float((apart * shares).sum().clamp_min(0))
        return float(apart.sum().clamp_min(0)) / self._places(reference)

    def norm(self, reference: Tensor) -> float:
        """What `change` is relative to: the number of examples, or the squared sum of values."""
        if self.kind == "logits":
            return float(len(reference))
        return float(self._kept(reference.detach().double()).square().sum())

    @property
    def halves(self) -> float:
        """What `norm` is to be multiplied by where squares of `signed`'s gradients are summed: these double nats."""
        return 2.0 if self.kind == "logits" else 1.0

    def signed(self, result: Tensor, signs: Tensor) -> Tensor:
        """A scalar whose gradient has mean zero over random signs, and the curvature of the distance as covariance.

        For values, Gaussian of equal variance, that is ``JᵀJ``. For logits, with p the probabilities (constants), it is
        ``sum s_c sqrt(p_c) ln p_c``, whose gradient with respect to the logits is ``(diag(sqrt p) - p sqrt(p)ᵀ) s``;
        its covariance is ``diag(p) - p pᵀ``, that of ``-ln p(label)`` for a sampled label. The expectation is the
        same, the variance far smaller: of a confident network's sampled labels only the rare wrong ones have a gradient
        to speak of, and these few decide the estimate. Of a map, each place counts with its share.

        Args:
            result: [N, ...].
            signs: of the same shape, 1 or -1.
        """
        if self.kind == "values":
            return (self._kept(result) * signs).sum()
        logs, shares = result.float().log_softmax(self.axis), self._shares(result)
        terms = signs * (logs.detach() / 2).exp() * logs
        return terms.sum() / math.sqrt(self._places(result)) if shares is None else (terms * shares.sqrt()).sum()

    def _places(self, outputs: Tensor) -> int:
        """Of a map."""
        return outputs[0].numel() // outputs.shape[self.axis]

    def _counting(self, outputs: Tensor) -> Tensor | None:
        """`counted` with the axes of the outputs; None where all count."""
        if self.counted is None or len(self.counted) != len(outputs):
            return None
        classes = self.axis % outputs.dim() if self.kind == "logits" else 0
        length = self.counted.shape[1]
        for axis in range(1, outputs.dim()):
            if axis != classes and outputs.shape[axis] == length:
                shape = [len(outputs), *[1] * (outputs.dim() - 1)]
                shape[axis] = length
                return self.counted.to(outputs.device).view(shape)
        return None

    def _kept(self, outputs: Tensor) -> Tensor:
        """Zero where it does not count."""
        counting = self._counting(outputs)
        return outputs if counting is None else outputs * counting

    def _shares(self, outputs: Tensor) -> Tensor | None:
        """What each place counts in the mean over those of its example; None where all count the same."""
        counting = self._counting(outputs)
        if counting is None:
            return None
        places = self._places(outputs) if self.kind == "logits" else outputs[0].numel()
        each = counting.float()
        whole = each.flatten(1).sum(1).view(-1, *[1] * (outputs.dim() - 1))
        return each / whole * (counting[0].numel() / places)


def curvature_signed(distances: Tensor, found: Tensor, signs: Tensor) -> Tensor:
    """As `Part.signed`, for a distance of the user's own: by its second derivative where outputs are equal.

    Its diagonal is estimated by one product with the signs (Hutchinson's estimate, Bekas et al., Applied Numerical
    Mathematics 57, 2007).

    Args:
        distances: of each example, [N], computed from `found`.
        found: a leaf, equal to the float network's outputs.
        signs: 1 or -1.

    Returns:
        the factor of each output: what the outputs are to be multiplied by, and summed.

    Raises:
        RuntimeError: there is no second derivative.
    """
    (slope,) = torch.autograd.grad(distances.sum(), found, create_graph=True)
    (product,) = torch.autograd.grad((slope * signs).sum(), found, retain_graph=True)
    return (product * signs).clamp_min(0).sqrt() * signs

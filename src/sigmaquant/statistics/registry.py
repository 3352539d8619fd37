"""Sensitivities by name: what the search and the command line choose from.

A new one is a function of this signature, entered in `SENSITIVITIES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from sigmaquant.errors import DataError, near_matches
from sigmaquant.graph.layers import QuantGraph
from sigmaquant.outputs import OutputKind
from sigmaquant.statistics.batches import Batch
from sigmaquant.statistics.divergence import Sensitivity, divergences
from sigmaquant.statistics.fisher import fisher_sensitivities
from sigmaquant.statistics.outputs import output_sensitivity


class SensitivityFunction(Protocol):
    """Harm of quantizing each layer to each bitwidth; `batches` is None when no calibration data was given."""

    def __call__(
        self,
        graph: QuantGraph,
        bitwidths: Sequence[int],
        batches: Iterable[Batch] | None,
        *,
        seed: int,
        midrise_up_to: int = 0,
        outputs: OutputKind = "auto",
    ) -> Sensitivity:
        """The table, by layer name and bitwidth."""
        ...


def sensitivity(
    name: str,
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch] | None = None,
    *,
    seed: int = 0,
    midrise_up_to: int = 0,
    outputs: OutputKind = "auto",
) -> Sensitivity:
    """The named sensitivity of every layer at every bitwidth.

    ====================  =====================================================  =================  ==========
    name                  what                                                   unit               needs data
    ====================  =====================================================  =================  ==========
    ``divergence``        loss of the weights' shape (`divergence.divergences`)  nats per weight    no
    ``output_kl``         one layer quantized at a time (`outputs`)              nats per example   yes
    ``fisher``            diagonal of the Fisher information (`fisher`)          nats per example   yes
    ``curvature``         all of a layer's Fisher information (`fisher`)         nats per example   yes
    ====================  =====================================================  =================  ==========

    Networks whose output is not class logits [N, C] get relative squared errors in place of nats per example; for a
    loss of your own call `fisher.fisher_sensitivities`.

    Args:
        name: a key of `SENSITIVITIES`.
        graph: the network.
        bitwidths: each 2..8.
        batches: calibration data, see `batches`.
        seed: of everything random.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid.
        outputs: what the network's outputs mean, see `sigmaquant.outputs`.

    Raises:
        DataError: an unknown name; calibration data missing, empty or unusable.
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """
    if name not in SENSITIVITIES:
        raise DataError(f"there is no sensitivity {name!r}. {near_matches(name, SENSITIVITIES)}")
    return SENSITIVITIES[name](graph, bitwidths, batches, seed=seed, midrise_up_to=midrise_up_to, outputs=outputs)


def _divergence(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch] | None,
    *,
    seed: int,
    midrise_up_to: int = 0,
    outputs: OutputKind = "auto",
) -> Sensitivity:
    return divergences(graph, bitwidths, midrise_up_to)


def _output_kl(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch] | None,
    *,
    seed: int,
    midrise_up_to: int = 0,
    outputs: OutputKind = "auto",
) -> Sensitivity:
    given = _given(batches, "output_kl")
    return output_sensitivity(graph, bitwidths, given, outputs=outputs, midrise_up_to=midrise_up_to)


def _fisher(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch] | None,
    *,
    seed: int,
    midrise_up_to: int = 0,
    outputs: OutputKind = "auto",
) -> Sensitivity:
    given = _given(batches, "fisher")
    both = fisher_sensitivities(graph, bitwidths, given, seed=seed, outputs=outputs, midrise_up_to=midrise_up_to)
    return both.fisher


def _curvature(
    graph: QuantGraph,
    bitwidths: Sequence[int],
    batches: Iterable[Batch] | None,
    *,
    seed: int,
    midrise_up_to: int = 0,
    outputs: OutputKind = "auto",
) -> Sensitivity:
    given = _given(batches, "curvature")
    both = fisher_sensitivities(graph, bitwidths, given, seed=seed, outputs=outputs, midrise_up_to=midrise_up_to)
    return both.curvature


def _given(batches: Iterable[Batch] | None, name: str) -> Iterable[Batch]:
    if batches is None:
        raise DataError(f"the sensitivity {name!r} needs calibration batches. Give some, or use 'divergence'.")
    return batches


SENSITIVITIES: Mapping[str, SensitivityFunction] = MappingProxyType(
    {"divergence": _divergence, "output_kl": _output_kl, "fisher": _fisher, "curvature": _curvature}
)
"""Every sensitivity by name."""

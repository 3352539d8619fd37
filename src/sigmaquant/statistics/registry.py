"""Sensitivities by name: what the search and the command line choose from.

A new one is a function of this signature, entered by `register_sensitivity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from sigmaquant.errors import DataError, near_matches
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.statistics.batches import Batch
from sigmaquant.statistics.divergence import Sensitivity, divergences
from sigmaquant.statistics.fisher import FisherSensitivities, fisher_sensitivities
from sigmaquant.statistics.output_sensitivity import output_sensitivity
from sigmaquant.statistics.quantized import QuantizedWeights
from sigmaquant.tasks import Task, as_task


@dataclass(frozen=True)
class Request:
    """What a sensitivity is asked for; the attributes are the arguments of `sensitivity`.

    Attributes:
        batches: None where no calibration data was given.
        quantized: the weights at the bitwidths, where they are known already.
    """

    name: str
    graph: QuantGraph
    bitwidths: Sequence[int]
    batches: Iterable[Batch] | None
    seed: int
    midrise_up_to: int
    task: Task
    quantized: QuantizedWeights | None = None

    @property
    def data(self) -> Iterable[Batch]:
        """The calibration data, for a sensitivity that cannot do without.

        Raises:
            DataError: none was given.
        """
        if self.batches is None:
            raise DataError(f"the sensitivity {self.name!r} needs calibration batches. Give some, or use 'divergence'.")
        return self.batches


class SensitivityFunction(Protocol):
    """Harm of quantizing each layer to each bitwidth."""

    def __call__(self, request: Request, /) -> Sensitivity:
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
    task: Task | None = None,
    quantized: QuantizedWeights | None = None,
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

    Networks whose output is not class logits [N, C] get relative squared errors in place of nats per example, and tasks
    their own distance; for a loss of your own call `fisher.fisher_sensitivities`.

    Args:
        name: a key of `SENSITIVITIES`.
        graph: the network.
        bitwidths: each 2..8.
        batches: calibration data, see `batches`.
        seed: of everything random.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid.
        task: which outputs count, and what their distance is; None: class logits or values, by their shape.
        quantized: the weights at the bitwidths, where they are known already.

    Raises:
        DataError: an unknown name; calibration data missing, empty or unusable.
        ModelError: a weight contains NaN or infinity.
        PlanError: a bitwidth outside 2..8.
    """
    if name not in SENSITIVITIES:
        raise DataError(f"there is no sensitivity {name!r}. {near_matches(name, SENSITIVITIES)}")
    return SENSITIVITIES[name](
        Request(name, graph, bitwidths, batches, seed, midrise_up_to, task or as_task(), quantized)
    )


def _divergence(request: Request) -> Sensitivity:
    return divergences(request.graph, request.bitwidths, request.midrise_up_to)


def _output_kl(request: Request) -> Sensitivity:
    return output_sensitivity(
        request.graph, request.bitwidths, request.data, task=request.task, midrise_up_to=request.midrise_up_to
    )


def _second_order(request: Request) -> FisherSensitivities:
    return fisher_sensitivities(
        request.graph,
        request.bitwidths,
        request.data,
        seed=request.seed,
        task=request.task,
        midrise_up_to=request.midrise_up_to,
        quantized=request.quantized,
    )


_REGISTERED: dict[str, SensitivityFunction] = {
    "divergence": _divergence,
    "output_kl": _output_kl,
    "fisher": lambda request: _second_order(request).fisher,
    "curvature": lambda request: _second_order(request).curvature,
}
SENSITIVITIES: Mapping[str, SensitivityFunction] = MappingProxyType(_REGISTERED)
"""Every sensitivity by name; `register_sensitivity` enters another."""


def register_sensitivity(name: str) -> Callable[[SensitivityFunction], SensitivityFunction]:
    """Enter a sensitivity of your own: ``quantize(..., sensitivity=name)`` and ``--sensitivity`` then know it.

    Args:
        name: in place of one of the same name, unless that is the package's.

    Raises:
        DataError: the package has a sensitivity of that name.

    Example:
        >>> @register_sensitivity("parameters")
        ... def parameters(request):
        ...     \"\"\"The more weights, the more harm; a quarter of it for every bit more.\"\"\"
        ...     return {s.name: {b: s.elements / 4**b for b in request.bitwidths} for s in request.graph.layers}
    """
    if name in _OWN:
        raise DataError(f"the package has a sensitivity {name!r} of its own. Choose another name.")

    def enter(function: SensitivityFunction) -> SensitivityFunction:
        _REGISTERED[name] = function
        return function

    return enter


_OWN = frozenset(_REGISTERED)

ESTIMATED = frozenset({"fisher", "curvature"})
"""Those whose noise decides how many examples they need, see `drawing`."""

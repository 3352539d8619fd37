"""Everything that decides what a search does; the same settings, data and seed give the same plan."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any, Literal, TypedDict, get_args

from sigmaquant.errors import SigmaQuantError, near_matches
from sigmaquant.outputs import OutputKind
from sigmaquant.plan import BITWIDTHS, check_bitwidth, check_midrise
from sigmaquant.statistics import SENSITIVITIES, SigmaVariant

Objective = Literal["auto", "feasible", "smallest", "accurate"]
Rounding = Literal["compensated", "nearest"]
Beginning = Literal["best", "sigma"]
Effort = Literal["low", "medium", "high"]
EFFORT_MINUTES: Mapping[str, float] = {"low": 1.0, "medium": 5.0, "high": 30.0}
"""`Settings.minutes` of each `Settings.effort`."""


@dataclass(frozen=True)
class Settings:
    """How to search and how to train.

    Attributes:
        strategy: ``"sigma"`` (both phases), ``"uniform"``, ``"greedy"``, ``"ilp"``, ``"random"`` or a registered one.
        start: where the strategy ``"sigma"`` begins. ``"best"``: at the best of the plans that can be had without
            training, each measured once (`sigmaquant.search.candidates`), where a cost is limited that bitwidths
            change. ``"sigma"``: at clusters of sigma alone, as the published method.
        bitwidths: allowed weight bitwidths, any of 2..8.
        activation_bits: bitwidth of every activation.
        activation_bitwidths: widths that activations may have, any of 2..8, where a limited cost depends on them: they
            are chosen by tensor (`sigmaquant.search.activation_widths`). Inputs and what the outputs are made of keep
            `activation_bits`. Empty: every activation does.
        activation_pin: other bitwidths for some activations, by name.
        equalize: rescale channels exactly before anything is quantized, where the outputs then move less
            (`sigmaquant.training.equalization`).
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid, without a zero but with one level more
            (`BitwidthPlan.midrise_up_to`), 0..7; None: 2, or 0 on hardware whose cost depends on the weights' digits,
            where zeros are what is cheap.
        pin: fixed weight bitwidths, by layer name; of tied weights any module's name will do, here and in `allowed`.
        allowed: allowed bitwidths of single layers, by layer name.
        objective: ``"feasible"`` stops when the budget is met; ``"smallest"`` then keeps shrinking until the accuracy
            floor says no; ``"accurate"`` looks for the most accurate network within the cost limits. ``"auto"``:
            feasible where the budget has an accuracy, else accurate.
        sigma: which sigma phase 1 clusters, see `sigmaquant.statistics.layer_sigmas`.
        sensitivity: what guides phase 2, ``ilp`` and nothing else, see `sigmaquant.statistics.sensitivity`.
        phase2: False skips the refinement by measurement: phase 1, then only what the limits require.
        max_cycles: most moves that phase 2 tries.
        search_minutes: phase 2 tries nothing more once the run has taken so long, but for moves that a cost limit
            requires; None: no such end. The final training comes on top. The plan then depends on the machine's speed.
        phase1_cycles: most measured cycles of phase 1.
        cycle_examples: training examples of one search cycle; 0: moves are judged by calibration alone.
        final_epochs: passes over the training data after the search; may be fractional.
        final_steps: steps of `batch_size` examples in place of passes: of few data, passes are soon over.
        prune: largest share of every group of channels that may be removed, below 1; 0: none are. How many go is chosen
            with the bitwidths (`sigmaquant.pruning`). Pinned layers keep all theirs.
        post_training: no training at all; overrides `cycle_examples` and `final_epochs`.
        rounding: ``"compensated"`` rounds the searched plan's weights such that the layers' outputs change least
            (`sigmaquant.quant.compensate_rounding_`), where that brings the outputs closer to the float network's;
            ``"nearest"`` leaves the float weights as they are. Only for weights that no search cycle has trained.
        minutes: time for everything: the search, which tries without training, a reconstruction and, unless
            `post_training`, a final training, in place of `cycle_examples` and `final_epochs`. What it became is in the
            result (`sigmaquant.search.timing`). With a control, each has half of it. None: no reconstruction, and
            training as long as these two say.
        effort: ``"low"``, ``"medium"`` or ``"high"``: 1, 5 or 30 `minutes`.
        reconstruction_steps: so many steps for every block in place of a time; the result then does not depend on the
            machine's speed.
        reconstruction_examples: most training examples that a reconstruction looks at; their labels are not used.
        batch_size: training and evaluation examples in a batch, where the data have no batches of their own.
        lr: peak learning rate of the final training.
        cycle_lr: peak learning rate of the search cycles.
        scale_lr: peak learning rate of the scales, of weights and activations, in the final training; in the search
            cycles it is lower in the ratio of `cycle_lr` to `lr`. At the weights' own rate, single activation scales
            run away in short trainings.
        weight_decay: of weights with two or more dimensions.
        distill: weight of the float network's outputs in the loss, 0..1; the rest is the task's loss.
        temperature: of the distillation.
        bf16: train in bfloat16 autocast; None: where the processor or GPU multiplies bfloat16 in hardware, see
            `sigmaquant.training.devices.choose_device`. Evaluation and calibration are always in float32.
        outputs: ``"logits"`` [N, C] are compared as distributions, ``"values"`` by their squared difference;
            ``"auto"``: logits where every example's target is a class, an integer.
        sensitivity_examples: training examples for the sensitivities that need data, at first.
        sensitivity_limit: most of them: ``"curvature"`` and ``"fisher"`` draw more until their ranking of the layers is
            stable (`sigmaquant.statistics.drawing`).
        calibration_examples: training examples for activation ranges and BatchNorm statistics before any training; the
            steps of a search look at half of them.
        batch_norm_examples: training examples for the last BatchNorm re-estimation.
        search_examples: validation examples that judge a search step (all, where there are fewer).
        validation_fraction: share of the training data held out when no validation data are given.
        control: also train the uniform plan at the same budget (where no cost is limited: at the same size), for
            comparison.
        accept_control: return that plan where it is as good within noise and no larger; implies `control`.
        seed: of everything random.
    """

    strategy: str = "sigma"
    start: Beginning = "best"
    bitwidths: tuple[int, ...] = (2, 4, 6, 8)
    activation_bits: int = 8
    equalize: bool = True
    activation_bitwidths: tuple[int, ...] = ()
    midrise_up_to: int | None = None
    activation_pin: Mapping[str, int] = field(default_factory=dict)
    pin: Mapping[str, int] = field(default_factory=dict)
    allowed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    objective: Objective = "auto"
    sigma: SigmaVariant = "raw"
    sensitivity: str = "curvature"
    phase2: bool = True
    max_cycles: int = 12
    search_minutes: float | None = None
    phase1_cycles: int = 3
    cycle_examples: int = 4096
    final_epochs: float = 2.0
    final_steps: int | None = None
    prune: float = 0.0
    post_training: bool = False
    rounding: Rounding = "compensated"
    minutes: float | None = None
    effort: Effort | None = None
    reconstruction_steps: int | None = None
    reconstruction_examples: int = 512
    batch_size: int = 128
    lr: float = 0.02
    cycle_lr: float = 0.01
    scale_lr: float = 0.002
    weight_decay: float = 1e-4
    distill: float = 1.0
    temperature: float = 2.0
    bf16: bool | None = None
    outputs: OutputKind = "auto"
    sensitivity_examples: int = 512
    sensitivity_limit: int = 4096
    calibration_examples: int = 1024
    batch_norm_examples: int = 4096
    search_examples: int = 2048
    validation_fraction: float = 0.1
    control: bool = False
    accept_control: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, _typed(getattr(self, item.name), str(item.type), item.name))
        bitwidths = _bitwidths(self.bitwidths, "bitwidths")
        if not bitwidths:
            raise SigmaQuantError(f"bitwidths is empty. Give at least one of {BITWIDTHS[0]}..{BITWIDTHS[-1]}.")
        object.__setattr__(self, "bitwidths", bitwidths)
        widths = _bitwidths(self.activation_bitwidths, "activation_bitwidths")
        object.__setattr__(self, "activation_bitwidths", widths)
        for name in ("pin", "activation_pin"):  # new tables: a plan's own cannot be copied, let alone changed
            pins = {layer: check_bitwidth(bits, f"{name} of {layer!r}") for layer, bits in getattr(self, name).items()}
            object.__setattr__(self, name, pins)
        allowed = {layer: _bitwidths(several, f"allowed of {layer!r}") for layer, several in self.allowed.items()}
        object.__setattr__(self, "allowed", allowed)
        check_bitwidth(self.activation_bits, "activation_bits")
        object.__setattr__(self, "control", self.control or self.accept_control)
        if self.midrise_up_to is not None:
            check_midrise(self.midrise_up_to)
        for name, least in (
            ("max_cycles", 0),
            ("phase1_cycles", 1),
            ("cycle_examples", 0),
            ("final_epochs", 0),
            ("batch_size", 1),
            ("sensitivity_examples", 1),
            ("sensitivity_limit", 1),
            ("calibration_examples", 1),
            ("batch_norm_examples", 1),
            ("search_examples", 1),
            ("reconstruction_examples", 1),
            ("weight_decay", 0),
        ):
            if not least <= getattr(self, name) < 2**63:  # which also holds of infinity in the files of a run
                raise SigmaQuantError(f"{name} is {getattr(self, name)!r}; it must be finite and at least {least}.")
        if self.effort is not None:
            self._make_effort_()
        optional = ("search_minutes", "minutes", "reconstruction_steps", "final_steps")
        given = [name for name in optional if getattr(self, name) is not None]
        for name in ("lr", "cycle_lr", "scale_lr", "temperature", *given):
            if not 0 < getattr(self, name) < math.inf:
                raise SigmaQuantError(f"{name} is {getattr(self, name)!r}; it must be finite and above zero.")
        if not 0 <= self.seed < 2**63:
            raise SigmaQuantError(f"seed is {self.seed!r}; it must be a whole number of at least 0 and below 2^63.")
        if not 0 <= self.distill <= 1:
            raise SigmaQuantError(f"distill is {self.distill!r}; it must lie between 0 and 1.")
        if not 0 <= self.prune < 1:
            raise SigmaQuantError(
                f"prune is {self.prune!r}; it is the largest share to remove, at least 0 and below 1."
            )
        if not 0 < self.validation_fraction < 1:
            raise SigmaQuantError(f"validation_fraction is {self.validation_fraction!r}; it must lie between 0 and 1.")
        for name, known in (
            ("objective", get_args(Objective)),
            ("outputs", get_args(OutputKind)),
            ("rounding", get_args(Rounding)),
            ("start", get_args(Beginning)),
            ("sigma", get_args(SigmaVariant)),
            ("sensitivity", tuple(SENSITIVITIES)),
        ):
            if getattr(self, name) not in known:
                value = str(getattr(self, name))
                raise SigmaQuantError(f"there is no {name} {value!r}. {near_matches(value, known)}")

    def _make_effort_(self) -> None:
        """An effort as minutes.

        Raises:
            SigmaQuantError: there is no such effort, or other minutes are given.
        """
        effort = str(self.effort)
        if effort not in EFFORT_MINUTES:
            raise SigmaQuantError(f"there is no effort {effort!r}. {near_matches(effort, tuple(EFFORT_MINUTES))}")
        minutes = EFFORT_MINUTES[effort]
        if self.minutes not in (None, minutes):
            raise SigmaQuantError(f"effort {self.effort!r} is {minutes:g} minutes; give either of the two.")
        object.__setattr__(self, "minutes", minutes)

    @property
    def trains_in_cycles(self) -> bool:
        """Whether a plan that is tried is trained for a cycle before it is judged."""
        return not self.post_training and self.minutes is None and self.cycle_examples > 0

    @property
    def reconstructs(self) -> bool:
        """Whether the rounding is learned block by block."""
        return self.minutes is not None or self.reconstruction_steps is not None

    @property
    def trains(self) -> bool:
        """Whether any training happens."""
        final = self.minutes is not None or self.final_steps is not None or self.final_epochs > 0
        return not self.post_training and (final or self.cycle_examples > 0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Options(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments, so that a type checker knows them."""

    strategy: str
    start: Beginning
    bitwidths: Sequence[int]
    activation_bits: int
    equalize: bool
    activation_bitwidths: Sequence[int]
    midrise_up_to: int | None
    activation_pin: Mapping[str, int]
    pin: Mapping[str, int]
    allowed: Mapping[str, Sequence[int]]
    objective: Objective
    sigma: SigmaVariant
    sensitivity: str
    phase2: bool
    max_cycles: int
    search_minutes: float | None
    phase1_cycles: int
    cycle_examples: int
    final_epochs: float
    final_steps: int | None
    prune: float
    post_training: bool
    rounding: Rounding
    minutes: float | None
    effort: Effort | None
    reconstruction_steps: int | None
    reconstruction_examples: int
    batch_size: int
    lr: float
    cycle_lr: float
    scale_lr: float
    weight_decay: float
    distill: float
    temperature: float
    bf16: bool | None
    outputs: OutputKind
    sensitivity_examples: int
    sensitivity_limit: int
    calibration_examples: int
    batch_norm_examples: int
    search_examples: int
    validation_fraction: float
    control: bool
    accept_control: bool
    seed: int


def _typed(value: Any, kind: str, name: str) -> Any:
    """A field's value as its annotation says; NumPy's numbers become Python's.

    Raises:
        SigmaQuantError: it is something else.
    """
    if value is None and kind.endswith(" | None"):
        return None
    if kind.startswith("bool") and not isinstance(value, bool):
        raise SigmaQuantError(f"{name} is {value!r}; it must be True or False.")
    if kind in ("int", "int | None"):
        return _whole(value, name)
    if kind.startswith("float"):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise SigmaQuantError(f"{name} is {value!r}; it must be a number.")
        try:
            return float(value)
        except OverflowError:
            raise SigmaQuantError(f"{name} is too large; it must be finite.") from None
    if kind.startswith("Mapping") and not isinstance(value, Mapping):
        raise SigmaQuantError(f"{name} is {value!r}; it must be a mapping from names, like {{'conv1': …}}.")
    return value


def _whole(value: Any, name: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise SigmaQuantError(f"{name} is {value!r}; it must be a whole number.") from None


def _bitwidths(several: Any, what: str) -> tuple[int, ...]:
    if isinstance(several, str) or not isinstance(several, Iterable):
        raise SigmaQuantError(f"{what} is {several!r}; it must be several bitwidths, like (4, 8). One alone is a pin.")
    return tuple(sorted({check_bitwidth(bits, what) for bits in several}))

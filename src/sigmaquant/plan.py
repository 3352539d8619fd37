"""`BitwidthPlan`: the bitwidth of every weight and activation; the one artifact that all stages exchange."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from types import MappingProxyType
from typing import Any

from sigmaquant.errors import PlanError, UnknownLayerError, near_matches
from sigmaquant.json_text import read_json

SCHEMA = "sigmaquant.plan"
SCHEMA_VERSION = 3
_WIDE_MIDRISE = 4
"""Plans whose mid-rise grids have at most so many bits are written as version 1, which earlier releases read."""
Removed = Mapping[str, Mapping[str, tuple[int, ...]]]
"""By module name, the channels that a plan removes: its ``"outputs"`` and its ``"inputs"``, ascending."""
BITWIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""Every bitwidth a weight or an activation can have."""
MIDRISE_LARGEST = 7
"""Most bits of a weight on a mid-rise grid, whose codes fit into int8. Beyond 4 the one code that a mid-tread grid
wastes does not matter; nested codes are mid-rise all the same, see `sigmaquant.quant.nesting`."""


def check_bitwidth(bits: object, where: str) -> int:
    """`bits` as an int in 2..8.

    Raises:
        PlanError: anything else.
    """
    if isinstance(bits, bool) or not isinstance(bits, Integral) or int(bits) not in BITWIDTHS:
        raise PlanError(f"{where}: bitwidth {bits!r} is not one of {BITWIDTHS[0]}..{BITWIDTHS[-1]}.")
    return int(bits)  # NumPy has integers of its own


def check_midrise(bits: object) -> int:
    """`bits` as a valid `BitwidthPlan.midrise_up_to`.

    Raises:
        PlanError: not an integer in 0..7.
    """
    if isinstance(bits, bool) or not isinstance(bits, Integral) or not 0 <= int(bits) <= MIDRISE_LARGEST:
        raise PlanError(f"midrise_up_to is {bits!r}; it must be an integer in 0..{MIDRISE_LARGEST}.")
    return int(bits)


def check_removed(removed: object) -> dict[str, dict[str, tuple[int, ...]]]:
    """Removed channels by module and side, in the order of the modules' names.

    Raises:
        PlanError: anything else, such as a side that there is not, or channels that do not ascend.
    """
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    if not isinstance(removed, Mapping):
        raise PlanError("the plan's key 'removed' must map names of modules to the channels that are removed.")
    for name, sides in removed.items():
        if not isinstance(sides, Mapping) or not sides or not set(sides) <= {"outputs", "inputs"}:
            raise PlanError(f"removed of {name!r}: give lists of channels under 'outputs' and 'inputs'.")
        for side, channels in sides.items():
            whole = isinstance(channels, list | tuple) and all(type(c) is int and c >= 0 for c in channels)
            if not whole or not channels or list(channels) != sorted(set(channels)):
                raise PlanError(f"removed of {name!r}: the {side} must be whole numbers that ascend, each once.")
        found[str(name)] = {side: tuple(sides[side]) for side in sorted(sides)}
    return dict(sorted(found.items()))


def check_names(given: Collection[str], known: Collection[str], what: str) -> None:
    """Raise for the first given name that is not known.

    Raises:
        UnknownLayerError: with the near matches.
    """
    for name in given:
        if name not in known:
            raise UnknownLayerError(
                f"{what} names {name!r}, which the model does not have. {near_matches(name, known)}"
            )


@dataclass(frozen=True)
class LayerBits:
    """One row of a plan: what it is for (``"weight"`` or ``"activation"``), its name and its bitwidth."""

    role: str
    name: str
    bits: int


@dataclass(frozen=True, repr=False)
class BitwidthPlan:
    """Bitwidths by name. Immutable; `with_weights` and `with_activations` give changed copies.

    Attributes:
        weights: bitwidth of each layer's weight, by `LayerSpec.name`.
        activations: bitwidth of each quantized activation, by `ActivationSpec.name`.
        model: fingerprint of the graph the plan belongs to (`QuantGraph.fingerprint`), or ``""`` when unknown.
        midrise_up_to: weights of at most so many bits lie on a mid-rise grid (odd codes, no zero), the others on a
            mid-tread grid (all codes of a symmetric range); 0: all mid-tread. See `sigmaquant.numerics`.
        removed: channels that the network has lost; `model` is its fingerprint without them.

    Raises:
        PlanError: a bitwidth outside 2..8, `midrise_up_to` outside 0..7, or removed channels that cannot be read.

    Example:
        >>> plan = BitwidthPlan({"conv1": 8, "fc": 4}, {"input": 8})
        >>> plan.with_weights({"fc": 2}).weights["fc"], plan.weights["fc"]
        (2, 4)
        >>> BitwidthPlan.from_json(plan.to_json()) == plan
        True
    """

    weights: Mapping[str, int]
    activations: Mapping[str, int] = field(default_factory=dict)
    model: str = ""
    midrise_up_to: int = 0
    removed: Removed = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role in ("weight", "activation"):
            table = getattr(self, f"{role}s")
            checked = {name: check_bitwidth(bits, f"{role} {name!r}") for name, bits in table.items()}
            object.__setattr__(self, f"{role}s", MappingProxyType(checked))
        object.__setattr__(self, "midrise_up_to", check_midrise(self.midrise_up_to))
        object.__setattr__(self, "removed", MappingProxyType(check_removed(self.removed)))

    def __hash__(self) -> int:
        tables = frozenset(self.weights.items()), frozenset(self.activations.items())  # equal in any order
        return hash((*tables, self.model, self.midrise_up_to, frozenset(self.removed)))

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy cannot be copied or sent to a worker
        tables = dict(self.weights), dict(self.activations)
        return (BitwidthPlan, (*tables, self.model, self.midrise_up_to, dict(self.removed)))

    def __iter__(self) -> Iterator[LayerBits]:
        for name, bits in self.weights.items():
            yield LayerBits("weight", name, bits)
        for name, bits in self.activations.items():
            yield LayerBits("activation", name, bits)

    def is_midrise(self, layer: str) -> bool:
        """Whether a layer's weight lies on a mid-rise grid."""
        return self.weights[layer] <= self.midrise_up_to

    def with_weights(self, changes: Mapping[str, int]) -> BitwidthPlan:
        """A copy with other weight bitwidths.

        Raises:
            UnknownLayerError: a name that the plan does not have.
        """
        check_names(changes, self.weights, "the change")
        return replace(self, weights={**self.weights, **changes})

    def with_activations(self, changes: Mapping[str, int]) -> BitwidthPlan:
        """A copy with other activation bitwidths.

        Raises:
            UnknownLayerError: a name that the plan does not have.
        """
        check_names(changes, self.activations, "the change")
        return replace(self, activations={**self.activations, **changes})

    def check(self, layers: Collection[str], activations: Collection[str], model: str = "") -> None:
        """Raise unless the plan names exactly these layers and activations.

        Raises:
            UnknownLayerError: the plan names what the model does not have (near matches are listed).
            PlanError: a layer or activation has no bitwidth, or the plan belongs to another model.
        """
        check_names(self.weights, layers, "the plan")
        check_names(self.activations, activations, "the plan")
        for role, known, table in (("layer", layers, self.weights), ("activation", activations, self.activations)):
            missing = [name for name in known if name not in table]
            if missing:
                shown = ", ".join(repr(name) for name in missing[:5])
                raise PlanError(
                    f"the plan gives no bitwidth for {len(missing)} {role}(s): {shown}. A plan must name every one."
                )
        if model and self.model and model != self.model:
            raise PlanError(
                f"the plan belongs to another model (fingerprint {self.model}, this model has {model}): same names, "
                "but other shapes. Use the plan with the model it was made for."
            )

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} at {bits} bits" for bits, number in self.histogram().items())
        layers = f"{len(self.weights)} layer{'' if len(self.weights) == 1 else 's'}"
        return f"BitwidthPlan({layers}: {counts}; {len(self.activations)} activations)"

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{bits}</td></tr>" for name, bits in self.weights.items())
        return f"<table><tr><th>layer</th><th>bits</th></tr>{rows}</table>"

    def histogram(self) -> dict[int, int]:
        """How many layers have each weight bitwidth.

        Example:
            >>> BitwidthPlan({"a": 2, "b": 4, "c": 2}).histogram()
            {2: 2, 4: 1}
        """
        return dict(sorted(Counter(self.weights.values()).items()))

    def to_json(self) -> str:
        """The plan as JSON with its schema and version."""
        document = {
            "schema": SCHEMA,
            "version": self._version,
            "model": self.model,
            "midrise_up_to": self.midrise_up_to,
            "weights": dict(self.weights),
            "activations": dict(self.activations),
        }
        text = json.dumps(document, indent=2)
        if self.removed:  # thousands of numbers: a line for each module
            rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(sides)}" for name, sides in self.removed.items())
            text = f'{text[:-2]},\n  "removed": {{\n{rows}\n  }}\n}}'
        return text + "\n"

    @property
    def _version(self) -> int:
        """The first version that knows all of it, so that earlier releases read what they can."""
        if self.removed:
            return 3
        return 2 if self.midrise_up_to > _WIDE_MIDRISE else 1

    @classmethod
    def from_json(cls, text: str) -> BitwidthPlan:
        """Read a plan.

        Raises:
            PlanError: not JSON, not a plan, of a newer version, with unknown keys, or with a bad bitwidth.
        """
        try:
            document = read_json(text)
        except ValueError as error:
            raise PlanError(f"the plan is not valid JSON: {error}.") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise PlanError(f"this is no bitwidth plan: its key 'schema' is not {SCHEMA!r}.")
        if document.get("version") not in range(1, SCHEMA_VERSION + 1):
            raise PlanError(
                f"the plan has version {document.get('version')!r}, this program reads 1 to {SCHEMA_VERSION}. "
                "Update sigmaquant or write the plan anew."
            )
        unknown = set(document) - {"schema", "version", "model", "midrise_up_to", "weights", "activations", "removed"}
        if unknown:
            raise PlanError(f"the plan has the unknown key {sorted(unknown)[0]!r}.")
        tables = []
        for key in ("weights", "activations"):
            table = document.get(key)
            if not isinstance(table, dict):
                raise PlanError(f"the plan's key {key!r} must map names to bitwidths.")
            tables.append(table)
        removed = document.get("removed", {})
        if removed and document["version"] < 3:
            raise PlanError(f"the plan removes channels, which plans of version {document['version']} do not.")
        return cls(tables[0], tables[1], str(document.get("model", "")), document.get("midrise_up_to", 0), removed)

"""`HardwareProfile`: what a device's arithmetic and memory cost, measured and written down as JSON.

A profile is data, not code: every quantity carries its unit in its key, and where it comes from stands beside it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sigmaquant.errors import HardwareProfileError, near_matches
from sigmaquant.hardware.own_costs import OWN_COSTS
from sigmaquant.json_text import read_json
from sigmaquant.plan import BITWIDTHS

SCHEMA_VERSION = 1

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bitwidth = Annotated[int, Field(ge=BITWIDTHS[0], le=BITWIDTHS[-1])]
Encoding = Literal["csd", "binary", "booth4"]
LayerClass = Literal["conv", "pointwise", "depthwise", "linear"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Technology(_Part):
    """The silicon that figures of an accelerator were derived for."""

    library: str
    voltage_v: Positive
    corner: str
    liberty_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    layout: Literal["pre-layout", "post-layout"]


class Unit(_Part):
    """One MAC unit: all lanes (or all products of its dot product) with registers, controller and clock gating."""

    name: str
    organisation: Literal["lanes", "dot_product"]
    accumulator_bits: Annotated[int, Field(gt=0)]
    area_um2: Positive
    sequential_area_um2: NonNegative
    min_period_ps: Positive
    leakage_nw: NonNegative


class CycleRule(_Part):
    """Cycles that one weight takes: constant, its non-zero digits, its bits, or half of them; at least `minimum`."""

    rule: Literal["constant", "digits", "bits", "booth_digits"]
    minimum: Annotated[int, Field(ge=0)] = 1


class Entry(_Part):
    """Measured cost of a MAC at one pair of bitwidths.

    Attributes:
        layer: class of layers it holds for; None: every class without entries of its own.
        w_bits, a_bits: bitwidths of weight and activation.
        digits_per_mac: mean non-zero digits of a weight in the measurement.
        cycles_per_mac: cycles in which the whole unit does `Compute.parallel_macs` MACs.
        energy_per_mac_fj: energy of one MAC.
        energy_per_digit_fj: what one more digit for each MAC adds, at these bitwidths.
        verified: results equalled the integer reference on all vectors.
        vectors: how many vectors were checked.
    """

    layer: LayerClass | None = None
    w_bits: Bitwidth
    a_bits: Bitwidth
    digits_per_mac: NonNegative | None = None
    cycles_per_mac: NonNegative
    energy_per_mac_fj: NonNegative | None = None
    energy_per_digit_fj: float | None = None
    verified: bool = False
    vectors: Annotated[int, Field(ge=0)] = 0


class Compute(_Part):
    """The arithmetic: how many MACs go on at once, and the measured table.

    Attributes:
        clock_mhz: clock frequency.
        parallel_macs: MACs that one step does.
        unit: the MAC unit, of an accelerator.
        digits: how weights are recoded where cost depends on their non-zero digits; None where it does not.
        cycles: how a single weight's cycles follow from its code; None: only the table's means are known.
        table: one entry for each measured (layer, w_bits, a_bits).
    """

    clock_mhz: Positive
    parallel_macs: Annotated[int, Field(gt=0)] = 1
    unit: Unit | None = None
    digits: Encoding | None = None
    cycles: CycleRule | None = None
    table: Annotated[tuple[Entry, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _no_entry_twice(self) -> Self:
        keys = [(entry.layer, entry.w_bits, entry.a_bits) for entry in self.table]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"table has two entries for layer, w_bits, a_bits = {twice}")
        return self


class Macro(_Part):
    """One on-chip memory macro."""

    macro: str
    capacity_bytes: Annotated[int, Field(gt=0)]
    word_bits: Annotated[int, Field(gt=0)]
    read_energy_fj_per_bit: NonNegative
    write_energy_fj_per_bit: NonNegative
    leakage_nw: NonNegative
    liberty_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Dram(_Part):
    """External memory, with the publication its figure comes from."""

    read_energy_fj_per_bit: NonNegative
    source: str


class Memory(_Part):
    """Where bytes live and what moving them costs.

    Attributes:
        on_chip: macros; the smallest that holds what is needed serves, else the largest, in banks.
        dram: external memory, or None.
        weights_in: ``"dram"``: weights come from external memory once in an inference; ``"on_chip"``: they stay.
        activation_container_bits: bits that an activation takes at least.
    """

    on_chip: Annotated[tuple[Macro, ...], Field(strict=False)] = ()
    dram: Dram | None = None
    weights_in: Literal["on_chip", "dram"] = "on_chip"
    activation_container_bits: Annotated[int, Field(ge=1, le=32)] = 8

    @model_validator(mode="after")
    def _dram_is_there(self) -> Self:
        if self.weights_in == "dram" and self.dram is None:
            raise ValueError('weights_in is "dram", but there is no key "dram"')
        return self


class OperatingPoint(_Part):
    """A voltage and a clock that the device can run at besides those its table was measured at.

    Attributes:
        name: how limits name it, as in ``"15 ms @ slow"``.
        clock_mhz: clock frequency; all times scale with it.
        energy_factor: energy of arithmetic and on-chip memory, relative to the table's.
        voltage_v: in place of the factor: energy scales with the square of the voltage, which needs ``technology``.
        source: where the figures are from.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    clock_mhz: Positive
    energy_factor: Positive | None = None
    voltage_v: Positive | None = None
    source: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.energy_factor is None) == (self.voltage_v is None):
            raise ValueError('an operating point has either "energy_factor" or "voltage_v"')
        return self


class Overhead(_Part):
    """Time that no MAC explains: once, for each layer, for each byte of a layer's input and output, and for each value
    that an operator without weights writes: sums, concatenations, maps by channel, pools.
    """

    latency_ms_per_inference: NonNegative = 0.0
    latency_ms_per_layer: NonNegative = 0.0
    latency_ns_per_activation_byte: NonNegative = 0.0
    latency_ns_per_weightless_value: NonNegative = 0.0


class Method(_Part):
    """How the figures were made, such that they can be made again."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    command: str
    simulator: str = ""
    stimuli: str = ""
    seed: int | None = None
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()


class HardwareProfile(_Part):
    """What one device costs.

    Attributes:
        name: how it is chosen, such as ``hardware="shift-add-csd-sg13g2"``.
        description: one sentence.
        technology: of an accelerator.
        compute: the arithmetic; None: no cycles, latency or energy are given.
        memory: where bytes live.
        overhead: time that no MAC explains.
        method: how it was made.
        baseline: the profile that ratios should be taken to.
        operating_points: other voltages and clocks, each with costs of its own.
        program: ``"c"`` on a microcontroller that runs the exported C: memory and flash are those of that program.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1)]
    description: str
    technology: Technology | None = None
    compute: Compute | None = None
    memory: Memory = Memory()
    overhead: Overhead = Overhead()
    method: Method
    baseline: str | None = None
    operating_points: Annotated[tuple[OperatingPoint, ...], Field(strict=False)] = ()
    program: Literal["c"] | None = None

    @model_validator(mode="after")
    def _points_can_be_costed(self) -> Self:
        names = [point.name for point in self.operating_points]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"operating_points has {twice!r} twice")
        if names and self.compute is None:
            raise ValueError("operating_points need compute, whose clock they change")
        if any(point.voltage_v is not None for point in self.operating_points) and self.technology is None:
            raise ValueError('operating points with "voltage_v" need technology.voltage_v; else give "energy_factor"')
        return self

    def energy_factor(self, point: OperatingPoint) -> float:
        """Energy of arithmetic and on-chip memory at a point, relative to the table's.

        Dynamic energy is that of charging capacitances, C·V² (Weste and Harris, CMOS VLSI Design, 4th ed., 5.2).
        """
        if point.energy_factor is not None:
            return point.energy_factor
        assert point.voltage_v is not None, "validated"
        assert self.technology is not None, "validated"
        return (point.voltage_v / self.technology.voltage_v) ** 2

    @classmethod
    def from_dict(cls, document: Any, source: str = "the hardware profile") -> Self:
        """The profile of a JSON document.

        Raises:
            HardwareProfileError: a missing, misspelt or impossible key; the message names it.
        """
        if isinstance(document, dict) and document.get("schema_version") not in (None, SCHEMA_VERSION):
            raise HardwareProfileError(
                f"{source}: schema_version is {document['schema_version']!r}, this release reads {SCHEMA_VERSION}. "
                "Update sigmaquant or characterise the device anew."
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise HardwareProfileError(f"{source}: {_first_problem(error)}") from None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back. Without what later releases added it is as before they did."""
        added = {"operating_points": self.operating_points, "program": self.program}
        left_out: dict[str, Any] = {name: True for name, value in added.items() if not value}
        if not self.overhead.latency_ns_per_weightless_value:
            left_out["overhead"] = {"latency_ns_per_weightless_value"}
        return self.model_dump(mode="json", exclude=left_out)


def _first_problem(error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in found["loc"]) or "the document"
    if found["type"] == "extra_forbidden":
        return f"there is no key {key!r}. {near_matches(str(found['loc'][-1]), _all_keys())}"
    if found["type"] == "missing":
        return f"the key {key!r} is missing."
    return f"{key}: {found['msg'][:1].lower()}{found['msg'][1:]}; it is {str(found['input'])[:60]!r}."


def _all_keys() -> list[str]:
    parts = (
        HardwareProfile,
        Technology,
        Unit,
        CycleRule,
        Entry,
        Compute,
        Macro,
        Dram,
        Memory,
        Overhead,
        Method,
        OperatingPoint,
    )
    return [key for part in parts for key in part.model_fields]


def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the package.

    Example:
        >>> "ideal" in shipped_profiles()
        True
    """
    folder = resources.files("sigmaquant.hardware") / "profiles"
    return tuple(sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")))


def load_profile(hardware: str | Path) -> HardwareProfile:
    """A shipped profile by name, costs of your own (`sigmaquant.hardware.own_costs.register_costs`), or a file.

    Args:
        hardware: a name of `shipped_profiles` or of registered costs, or the path of a JSON file (with a folder in it,
            or ending in .json).

    Raises:
        HardwareProfileError: no such profile, no JSON, or a wrong key.
    """
    text = str(hardware)
    if isinstance(hardware, Path) or text.endswith(".json") or "/" in text:
        path = Path(hardware)
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HardwareProfileError(f"the hardware profile {text!r} cannot be read: {error}.") from None
        return _parse(content, text)
    if text in OWN_COSTS:
        method = Method(date="1970-01-01", command="a function that was registered in Python")
        return HardwareProfile(name=text, description=OWN_COSTS[text].description, method=method)
    known = shipped_profiles()
    if text not in known:
        raise HardwareProfileError(
            f"there is no hardware profile {text!r}. {near_matches(text, [*known, *OWN_COSTS])} "
            "Or give the path of a profile's file."
        )
    file = resources.files("sigmaquant.hardware") / "profiles" / f"{text}.json"
    return _parse(file.read_text(encoding="utf-8"), f"the shipped profile {text!r}")


def _parse(content: str, source: str) -> HardwareProfile:
    try:
        document = read_json(content)
    except ValueError as error:
        raise HardwareProfileError(f"{source} is not JSON: {error}.") from None
    return HardwareProfile.from_dict(document, source)

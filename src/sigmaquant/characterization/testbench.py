"""Drives a unit with streams of weights and activations and checks every step against integer arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigmaquant.characterization.functional import FunctionalModel, Words
from sigmaquant.characterization.mac_units import MacUnit
from sigmaquant.characterization.netlist import Netlist
from sigmaquant.errors import CharacterizationError

_RESET_CYCLES = 2


@dataclass(frozen=True)
class Stimulus:
    """What independent streams of one unit compute; each begins anew after its last step.

    Attributes:
        weight_bits: bitwidth of the weights.
        weights: [streams, steps, W] int8 codes; W = 1 for lanes, the products of a step for dot products.
        activations: [streams, steps, lanes] int8 codes.
        first: [streams, steps] bool: the step begins a dot product; step 0 always does.
        delay: [streams] cycles after which a stream begins, so that the streams are not in step.
    """

    weight_bits: int
    weights: NDArray[np.int8]
    activations: NDArray[np.int8]
    first: NDArray[np.bool_]
    delay: NDArray[np.int64]

    def expected(self) -> NDArray[np.int64]:
        """[streams, steps, accumulators]: what the accumulators hold after each step."""
        products = self.weights.astype(np.int64) * self.activations
        if self.weights.shape[2] > 1:
            products = products.sum(2, keepdims=True)
        sums = np.empty_like(products)
        total = np.zeros_like(products[:, 0])
        for step in range(products.shape[1]):
            total = np.where(self.first[:, step, None], 0, total) + products[:, step]
            sums[:, step] = total
        return sums


def pack(bits: NDArray[np.uint8]) -> list[int]:
    """Words of bits: [streams, n] zeros and ones -> n integers, bit s from stream s."""
    rows = np.packbits(bits.T, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


def unpack(word: int, streams: int) -> NDArray[np.bool_]:
    """[streams] of one word."""
    data = np.frombuffer(word.to_bytes((streams + 7) // 8, "little"), np.uint8)
    return np.unpackbits(data, bitorder="little")[:streams].astype(bool)


def code_bits(codes: NDArray[np.int8], width: int) -> NDArray[np.uint8]:
    """[streams, n] codes -> [streams, n * width] bits of their two's complement, the lowest first."""
    bits = np.unpackbits(np.ascontiguousarray(codes).view(np.uint8)[:, :, None], axis=2, bitorder="little")
    return bits[:, :, :width].reshape(len(codes), -1)


class TestBench:
    """A unit being driven; `cycle` goes on by one clock cycle.

    Args:
        netlist: of the unit, at any level.
        unit: what it is.
        stimulus: what to compute.

    Attributes:
        values: settled nets in this cycle.
        inputs, state: what they follow from.
        steps: steps that all streams have completed and that were found right.
    """

    __test__ = False  # pytest takes the name for one of its own

    def __init__(self, netlist: Netlist, unit: MacUnit, stimulus: Stimulus) -> None:
        self.unit, self.stimulus = unit, stimulus
        self.streams, self._steps, self.lanes = stimulus.activations.shape
        self.model = FunctionalModel(netlist, self.streams)
        self._activation_bits = len(netlist.inputs["a"]) // self.lanes
        self._rows = np.arange(self.streams)
        self._planes = stimulus.weight_bits if unit.planes else 1
        self._expected = stimulus.expected().astype(np.int32)
        self._duration = unit.step_cycles(stimulus.weights, stimulus.weight_bits)
        self._taken = np.full(self.streams, -1)  # planes, or steps, taken so far, the current one not counted
        self._since = np.zeros(self.streams, np.int64)
        self._cycle = 0
        self.steps = 0
        self.inputs: Mapping[str, list[int]] = {name: [0] * len(nets) for name, nets in self.model.ports.items()}
        self.state = self.model.initial()
        self.values = self.model.settle(self.inputs, self.state)

    def cycle(self) -> tuple[Words, Words]:
        """One rising clock edge, and everything settled after it.

        Returns:
            All nets before the edge, and the same as `values`, after it.

        Raises:
            CharacterizationError: an accumulator holds something else than the integer sum, or a step took another
                number of cycles than the unit's rule says; the message gives the operands.
        """
        before = self.values
        take = self._edge(before)
        self.state = self.model.clock(before, self.state)
        self.inputs = self._operands()
        self.values = self.model.settle(self.inputs, self.state)
        self._check(take)
        self._cycle += 1
        return before, self.values

    def run(self, steps: int) -> None:
        """Go on until every stream has completed so many steps more.

        Raises:
            CharacterizationError: as `cycle`, or a stream does not go on.
        """
        goal = self._completed().min() + steps
        patience = int(self._duration.max()) * (steps + 1) + int(self.stimulus.delay.max()) + _RESET_CYCLES
        for _ in range(patience + 1):
            if self._completed().min() >= goal:
                return
            self.cycle()
        raise CharacterizationError(f"{self.unit.name} does not take its operands: its output ready stays 0.")

    def _completed(self) -> NDArray[np.int64]:
        completed: NDArray[np.int64] = np.maximum(self._taken, 0) // self._planes
        return completed

    def _edge(self, before: Words) -> NDArray[np.bool_]:
        """Which streams' operands are taken at this edge."""
        offered = self._taken >= 0
        ready = unpack(before[self.model.netlist.outputs["ready"][0]], self.streams)
        take = offered & ready
        start = (self._cycle >= _RESET_CYCLES + self.stimulus.delay) & ~offered
        self._taken += take | start
        return take

    def _operands(self) -> dict[str, list[int]]:
        offered = self._taken >= 0
        position = np.maximum(self._taken, 0)
        step, plane = position // self._planes % self._steps, position % self._planes
        stimulus, rows = self.stimulus, self._rows
        weights = stimulus.weights[rows, step]
        if self.unit.planes:
            weight_bits = (weights.view(np.uint8) >> plane[:, None].astype(np.uint8)) & np.uint8(1)
        else:
            weight_bits = code_bits(weights, 8)
        flags = np.stack([stimulus.first[rows, step], offered], 1).astype(np.uint8)
        first, valid = pack(flags)
        ones = self.model.ones
        return {
            "rst": [ones if self._cycle < _RESET_CYCLES else 0],
            "valid": [valid],
            "clr": [first],
            "wbits": [ones if stimulus.weight_bits >> bit & 1 else 0 for bit in range(4)],
            "w": pack(weight_bits),
            "a": pack(code_bits(stimulus.activations[rows, step], self._activation_bits)),
        }

    def _check(self, take: NDArray[np.bool_]) -> None:
        """After the edge that takes a step, the accumulators hold the step before."""
        self._since += 1
        # `_taken` is the number of the operands now offered: those just taken are one before, and what is complete is
        # the step before theirs.
        position = self._taken - 1
        begun = take & (position % self._planes == 0)
        completed = position // self._planes - 1
        checked = begun & (completed >= 0)
        if checked.any():
            step = np.where(checked, completed, 0) % self._steps
            expected = self._expected[self._rows, step]
            words = pack(np.unpackbits(np.ascontiguousarray(expected).view(np.uint8), axis=1, bitorder="little"))
            mask = pack(checked[:, None].astype(np.uint8))[0]
            wrong = 0
            for net, word in zip(self.model.netlist.outputs["acc"], words, strict=True):
                wrong |= (self.values[net] ^ word) & mask
            if wrong:
                raise self._wrong_sum(int(unpack(wrong, self.streams).argmax()), step, expected)
            late = checked & (self._since != self._duration[self._rows, step])
            if late.any():
                stream = int(late.argmax())
                raise CharacterizationError(
                    f"{self.unit.name} took {self._since[stream]} cycles instead of "
                    f"{self._duration[stream, step[stream]]} for the weight "
                    f"{self.stimulus.weights[stream, step[stream]].tolist()} of {self.stimulus.weight_bits} bits."
                )
            self.steps += int(checked.sum())
        self._since[begun] = 0

    def _wrong_sum(self, stream: int, step: NDArray[np.int64], expected: NDArray[np.int32]) -> CharacterizationError:
        nets = self.model.netlist.outputs["acc"]
        bits = np.array([self.values[net] >> stream & 1 for net in nets], np.uint8)
        found = np.packbits(bits, bitorder="little").view(np.int32)
        lane = int((found != expected[stream]).argmax())
        weights, activations = (
            self.stimulus.weights[stream, step[stream]],
            self.stimulus.activations[stream, step[stream]],
        )
        return CharacterizationError(
            f"{self.unit.name} computes {found[lane]} instead of {expected[stream, lane]} in accumulator {lane} at "
            f"step {step[stream]} of stream {stream}, with weights {weights.tolist()} of {self.stimulus.weight_bits} "
            f"bits and activations {activations.tolist()}."
        )

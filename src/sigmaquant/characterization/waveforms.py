"""Simulation with delays: what every net does within a clock cycle, glitches included, for many streams at once.

Time goes in steps of a few picoseconds. A waveform is an array of 64-bit words, [times, words], one bit for each
stream. A cell's output becomes 1 when its function has been 1 for its rise delay, 0 when it has been 0 for its fall
delay, and stays as it is else; pulses shorter than the delay are swallowed. That is the inertial delay of Verilog's
``assign``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigmaquant.characterization.activity import Activity, NetEdges
from sigmaquant.characterization.functional import Words
from sigmaquant.characterization.netlist import CLOCK, ONE, ZERO, Netlist
from sigmaquant.characterization.timing import Timing
from sigmaquant.errors import CharacterizationError

STEP_PS = 10.0
_INPUT_STEPS = 1  # inputs change so many steps after the clock edge

Wave = NDArray[np.uint64]


@dataclass(frozen=True)
class _Step:
    """How to compute one net: steps of its delays, and the steps between which it can change."""

    net: int
    function: Callable[..., Wave]
    inputs: tuple[int, ...]
    rise: int
    fall: int
    first: int  # the inputs change from here on
    last: int  # and no longer from here on


class WaveformSimulator:
    """Computes the waveforms of single clock cycles.

    Args:
        netlist: mapped to the library.
        timing: its delays.
        period_ps: of the clock; tells the halves of a cycle apart.
        streams: how many run beside each other; a multiple of 64.
        step_ps: width of a time step.
    """

    def __init__(
        self,
        netlist: Netlist,
        timing: Timing,
        period_ps: float,
        streams: int,
        step_ps: float = STEP_PS,
    ) -> None:
        assert streams % 64 == 0, "whole words only"
        self._words = streams // 64
        self._streams = streams
        self._half = round(period_ps / 2 / step_ps)
        self._delays = {
            key: (max(1, round(rise / step_ps)), max(1, round(fall / step_ps)))
            for key, (rise, fall) in timing.delay_ps.items()
        }
        self._sources = self._find_sources(netlist)
        self._program = self._plan(netlist)
        ends = [max(edges) for edges in self._sources.values()]
        self._length = 1 + max(ends + [step.last + max(step.rise, step.fall) for step in self._program])
        self._before = max((max(step.rise, step.fall) for step in self._program), default=1)
        self._uses = Counter(net for step in self._program for net in step.inputs)
        self._to_registers = {
            net
            for index in (*netlist.flip_flops, *netlist.clock_gates)
            for net in netlist.instances[index].nets.values()
        } & {*netlist.drivers, *(net for port in netlist.inputs.values() for net in port)}
        self._pool: list[Wave] = []

    def _find_sources(self, netlist: Netlist) -> dict[int, tuple[int, int]]:
        """Nets that change at a known time after the clock edge, with the steps of a rise and of a fall."""
        inputs = [net for name, nets in netlist.inputs.items() if name != CLOCK for net in nets]
        found = dict.fromkeys(inputs, (_INPUT_STEPS, _INPUT_STEPS))
        for index in netlist.flip_flops:
            for pin, net in netlist.instances[index].nets.items():
                if netlist.instances[index].cell.pins[pin].is_output:
                    found[net] = self._delays[index, pin]
        return found

    def _plan(self, netlist: Netlist) -> list[_Step]:
        windows: dict[int, tuple[float, float]] = {ZERO: (np.inf, 0), ONE: (np.inf, 0)}
        windows |= {net: (min(edges), max(edges)) for net, edges in self._sources.items()}
        program = []
        for index in netlist.order:
            instance = netlist.instances[index]
            for pin in instance.cell.outputs:
                function = instance.cell.pins[pin].function
                if pin not in instance.nets or function is None:
                    continue
                inputs = tuple(instance.nets[name] for name in function.names)
                first, last = (
                    min((windows[net][0] for net in inputs), default=0),
                    max((windows[net][1] for net in inputs), default=0),
                )
                net = instance.nets[pin]
                if not np.isfinite(first):  # only constants before it
                    first = last = 0
                rise, fall = self._delays.get((index, pin), (1, 1))
                windows[net] = (first + min(rise, fall), last + max(rise, fall))
                program.append(_Step(net, function.compiled(), inputs, rise, fall, int(first), int(last)))
        return program

    def cycle(self, before: Words, after: Words, activity: Activity) -> None:
        """Count the edges between two settled states.

        Args:
            before, after: all nets before the clock edge and at the end of the cycle, of `FunctionalModel`.
            activity: is added to.

        Raises:
            CharacterizationError: a net does not settle to its value of the simulation without delays.
        """
        activity.cycles += self._streams
        waves: dict[int, Wave] = {
            net: self._constant(word) for net, word in ((ZERO, np.uint64(0)), (ONE, ~np.uint64(0)))
        }
        left = Counter(self._uses)
        left[ZERO] = left[ONE] = -1
        for net, (rise, fall) in self._sources.items():
            old, new = self._row(before[net]), self._row(after[net])
            between = old | new if rise < fall else old & new
            first, last = min(rise, fall), max(rise, fall)
            waves[net] = self._fill(old, np.broadcast_to(between, (last - first, self._words)), new, first)
            self._count(net, waves[net], first, last + 1, before[net], after[net], activity)
            self._release(net, waves, left)
        for step in self._program:
            old = self._row(before[step.net])
            inside = self._delayed(step, [waves[net] for net in step.inputs], old)
            new = inside[-1]
            if new.tobytes() != self._row(after[step.net]).tobytes():
                raise CharacterizationError(
                    f"net {step.net} does not settle to its value of the simulation without delays."
                )
            first = step.first + min(step.rise, step.fall)
            waves[step.net] = self._fill(old, inside, new, first)
            self._count(
                step.net, waves[step.net], first, first + len(inside), before[step.net], after[step.net], activity
            )
            for net in set(step.inputs):
                left[net] -= step.inputs.count(net)
                self._release(net, waves, left)
            self._release(step.net, waves, left)

    def _row(self, word: int) -> Wave:
        return np.frombuffer(word.to_bytes(self._words * 8, "little"), np.uint64)

    def _constant(self, word: np.uint64) -> Wave:
        return np.full((self._before + self._length, self._words), word, np.uint64)

    def _fill(self, old: Wave, inside: Wave, new: Wave, first: int) -> Wave:
        wave = self._pool.pop() if self._pool else self._constant(np.uint64(0))
        start = self._before + first
        wave[:start] = old
        wave[start : start + len(inside)] = inside
        wave[start + len(inside) :] = new
        return wave

    def _release(self, net: int, waves: dict[int, Wave], left: Counter[int]) -> None:
        if left[net] == 0:
            self._pool.append(waves.pop(net))

    def _delayed(self, step: _Step, inputs: list[Wave], old: Wave) -> Wave:
        """[times, words] of a cell's output while it can change."""
        longest = max(step.rise, step.fall)
        start, stop = self._before + step.first - longest, self._before + step.last + longest
        raw = step.function(*(wave[start:stop] for wave in inputs), ~np.uint64(0))
        if not inputs:
            raw = np.broadcast_to(raw, (stop - start, self._words))
        # The output at time t sees the inputs of the `delay` steps before t.
        lead = longest + min(step.rise, step.fall)
        times = stop - start - lead + 1
        up = _windows(raw, step.rise, np.bitwise_and)[lead - step.rise :][:times]
        not_down = _windows(raw, step.fall, np.bitwise_or)[lead - step.fall :][:times]
        return _hold(up, not_down, old)

    def _count(self, net: int, wave: Wave, first: int, stop: int, before: int, after: int, activity: Activity) -> None:
        def edges(start: int, end: int, old: int, new: int) -> tuple[int, int]:
            part = wave[self._before + start - 1 : self._before + end]
            rises = int(np.bitwise_count(part[1:] & ~part[:-1]).sum())
            return rises, rises + old - new

        rises, falls = edges(first, stop, before.bit_count(), after.bit_count())
        late = (0, 0)
        if net in self._to_registers and stop > self._half:
            middle = max(first, self._half)
            now = int(np.bitwise_count(wave[self._before + middle - 1]).sum())
            late = edges(middle, stop, now, after.bit_count())
        if rises or falls:
            activity.add_edges(net, NetEdges(rises, falls, *late))


def _windows(raw: Wave, length: int, join: Callable[..., Wave]) -> Wave:
    """[i]: all of raw[i : i + length] joined, by doubling."""
    done, size = raw, 1
    while size < length:
        step = min(size, length - size)
        done = join(done[:-step], done[step:])
        size += step
    return done


def _hold(up: Wave, not_down: Wave, old: Wave) -> Wave:
    """[t] = up[t] | (not_down[t] & [t-1]), with `old` before the first; by a parallel prefix."""
    state, keep = up.copy(), not_down & ~up
    state[0] |= keep[0] & old
    step = 1
    while step < len(state) and keep[step:].any():
        state[step:] |= keep[step:] & state[:-step]
        keep[step:] = keep[step:] & keep[:-step]
        keep[:step] = 0
        step *= 2
    return state

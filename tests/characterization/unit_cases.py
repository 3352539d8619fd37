"""Small units, synthesised once for all tests, and streams for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from sigmaquant.characterization.liberty import Library, read_liberty
from sigmaquant.characterization.mac_units import MacUnit, find_unit
from sigmaquant.characterization.measurement import MappedUnit, map_unit
from sigmaquant.characterization.netlist import GENERIC_CELLS, Netlist, read_netlist
from sigmaquant.characterization.synthesis import synthesize
from sigmaquant.characterization.testbench import Stimulus

LANES = 2


@cache
def generic(name: str, activation_bits: int = 8) -> Netlist:
    """A unit of two lanes as generic gates: the level of its Verilog."""
    document = synthesize(find_unit(name), None, activation_bits=activation_bits, lanes=LANES)
    return read_netlist(document, name, GENERIC_CELLS)


@cache
def library(path: Path) -> Library:
    return read_liberty(path)


@cache
def mapped(name: str, path: Path, lanes: int = LANES) -> MappedUnit:
    """A unit as cells of a library."""
    return map_unit(find_unit(name), library(path), period_ps=100_000.0, lanes=lanes)


def stimulus_of(unit: MacUnit, bits: int, weights, activations, seed: int = 0, first: float = 0.3) -> Stimulus:
    """Streams of the given codes, with dot products of random lengths."""
    rng = np.random.default_rng(seed)
    begin = rng.random(weights.shape[:2]) < first
    begin[:, 0] = True
    return Stimulus(
        bits, weights.astype(np.int8), activations.astype(np.int8), begin, rng.integers(bits, size=len(weights))
    )


def all_pairs(unit: MacUnit, bits: int, activation_bits: int, streams: int = 4096) -> Stimulus:
    """Every two's complement weight with every activation in the first lane, random ones in the other."""
    weights, activations = (
        np.arange(-(1 << bits - 1), 1 << bits - 1),
        np.arange(-(1 << activation_bits - 1), 1 << activation_bits - 1),
    )
    rng = np.random.default_rng(bits)
    pairs = rng.permutation(np.stack(np.meshgrid(weights, activations), -1).reshape(-1, 2))
    streams = min(streams, len(pairs))
    pairs = pairs.reshape(streams, -1, 2)
    width = unit.weights_per_step(LANES)
    others = rng.choice(weights, (*pairs.shape[:2], width - 1))
    more = rng.choice(activations, (*pairs.shape[:2], LANES - 1))
    return stimulus_of(
        unit, bits, np.concatenate([pairs[..., :1], others], 2), np.concatenate([pairs[..., 1:], more], 2)
    )

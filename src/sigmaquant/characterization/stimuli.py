"""Weights and activations to measure a unit with: Gaussian ones, or those of a network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sigmaquant.characterization.mac_units import MacUnit
from sigmaquant.characterization.testbench import Stimulus
from sigmaquant.errors import DataError
from sigmaquant.numerics import mse_weight_scales, weight_qmax

DOT_LENGTH = 144
"""Products of a Gaussian dot product: a 3 x 3 kernel over 16 channels."""
_CHANNELS, _CHANNEL_WEIGHTS = 256, 288
NARROW = 0.35
"""Width of the second stimulus' weights, on the grid of the first: fewer digits of the same bitwidth."""


@dataclass(frozen=True)
class LayerSample:
    """What a layer of a real network multiplies.

    Attributes:
        weight: [O, K] float, one row for each output channel.
        inputs: [N, K] float, vectors that the rows are multiplied by; neighbours in the image are neighbours here.
    """

    weight: ArrayLike
    inputs: ArrayLike


def build_stimulus(
    unit: MacUnit,
    weight_bits: int,
    activation_bits: int,
    *,
    streams: int,
    steps: int,
    lanes: int,
    seed: int,
    samples: Sequence[LayerSample] | None = None,
    sparse: bool = False,
) -> Stimulus:
    """Streams for a unit, all in different places of their dot products.

    Without samples, weights are Gaussian with a scale for each channel that minimises the squared error, activations
    are rectified Gaussian and quantized the same way, and a dot product has `DOT_LENGTH` products. With samples, every
    stream works off dot products of layers, channels and positions drawn at random, lanes take neighbouring positions.

    Args:
        unit: to drive.
        weight_bits, activation_bits: of the symmetric signed codes.
        streams, steps: how many, and how long.
        lanes: of the unit.
        seed: of everything random; the same seed draws the same values at all bitwidths.
        samples: layers of a real network.
        sparse: fewer non-zero digits on the same grid: weights `NARROW` times as wide, or, where ones of the two's
            complement are counted (as many in narrow weights), every second weight zero.

    Raises:
        DataError: a sample is empty, not finite, or its parts do not fit together.
    """
    rng = np.random.default_rng(seed)
    shape = (streams, steps, unit.weights_per_step(lanes))
    factor = NARROW if sparse and unit.digits != "binary" else 1.0
    if samples:
        layers = []
        for number, sample in enumerate(samples):
            weight, inputs = _read_sample(sample, number)
            codes = quantize_rows(inputs.reshape(1, -1), activation_bits).reshape(inputs.shape)
            layers.append((quantize_rows(weight, weight_bits, factor), codes))
        weights, activations, first = _from_layers(layers, unit, shape, lanes, rng)
    else:
        pool = rng.standard_normal((_CHANNELS, _CHANNEL_WEIGHTS))
        weights = rng.choice(quantize_rows(pool, weight_bits, factor).ravel(), shape)
        positive = np.maximum(rng.standard_normal((1, _CHANNELS * _CHANNEL_WEIGHTS)), 0)
        activations = rng.choice(quantize_rows(positive, activation_bits).ravel(), (streams, steps, lanes))
        length = DOT_LENGTH // unit.macs_per_result(lanes)
        first = (np.arange(steps) + rng.integers(length, size=(streams, 1))) % length == 0
    if sparse and unit.digits == "binary":
        weights = weights * rng.integers(2, size=shape).astype(np.int8)
    first[:, 0] = True
    weights = weights.astype(np.int8)
    delay = rng.integers(unit.step_cycles(weights, weight_bits).max(), size=streams)
    return Stimulus(weight_bits, weights, activations.astype(np.int8), first, delay)


def quantize_rows(rows: NDArray[np.float64], bits: int, factor: float = 1.0) -> NDArray[np.int8]:
    """Codes of rows with one scale each.

    Args:
        rows: [C, K].
        bits: of the symmetric signed codes.
        factor: multiplies the values after the scales are chosen.
    """
    scales = mse_weight_scales(torch.from_numpy(rows).float(), bits).numpy()[:, None]
    qmax = weight_qmax(bits)
    codes: NDArray[np.int8] = np.clip(np.rint(rows * factor / scales), -qmax, qmax).astype(np.int8)
    return codes


def _read_sample(sample: LayerSample, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, inputs = np.asarray(sample.weight, np.float64), np.asarray(sample.inputs, np.float64)
    if weight.ndim != 2 or inputs.ndim != 2 or weight.shape[1] != inputs.shape[1] or not weight.size * inputs.size:
        raise DataError(
            f"sample {number}: weight {weight.shape} and inputs {inputs.shape} must be [O, K] and [N, K] and not empty."
        )
    if not np.isfinite(weight).all() or not np.isfinite(inputs).all():
        raise DataError(f"sample {number} has values that are not finite.")
    return weight, inputs


def _from_layers(
    layers: list[tuple[NDArray[np.int8], NDArray[np.int8]]],
    unit: MacUnit,
    shape: tuple[int, int, int],
    lanes: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.bool_]]:
    """Weights, activations and first steps of streams that work off dot products of the layers' codes."""
    streams, steps, _ = shape
    weights = np.zeros(shape, np.int8)
    activations = np.zeros((streams, steps, lanes), np.int8)
    first = np.zeros((streams, steps), bool)
    for stream in range(streams):
        at = -int(rng.integers(DOT_LENGTH // unit.macs_per_result(lanes)))  # begins within a dot product
        while at < steps:
            part_w, part_a = _dot_product(layers[int(rng.integers(len(layers)))], unit, lanes, rng)
            begin, end = max(at, 0), min(at + len(part_w), steps)
            if begin < end:
                weights[stream, begin:end] = part_w[begin - at : end - at]
                activations[stream, begin:end] = part_a[begin - at : end - at]
                first[stream, begin] = True
            at += len(part_w)
    return weights, activations, first


def _dot_product(
    layer: tuple[NDArray[np.int8], NDArray[np.int8]], unit: MacUnit, lanes: int, rng: np.random.Generator
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Steps of a dot product with a random channel: weights [steps, W], activations [steps, lanes]."""
    weight, inputs = layer
    row, place = weight[int(rng.integers(len(weight)))], int(rng.integers(len(inputs)))
    if unit.organisation == "lanes":
        neighbours = (place + np.arange(lanes)) % len(inputs)
        return row[:, None], inputs[neighbours].T
    padding = (0, -len(row) % lanes)
    return np.pad(row, padding).reshape(-1, lanes), np.pad(inputs[place], padding).reshape(-1, lanes)

"""Error-compensated rounding: each weight's rounding error is made good by the weights that are not yet rounded.

OPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323), per output channel, for convolutions and linear layers. It needs
inputs of each layer, no labels and no gradients. The codes change, the scales do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmaquant.numerics import dequantize_weight, round_to_codes_, weight_qmax
from sigmaquant.quant.network import QuantizedNetwork
from sigmaquant.quant.padding import padding_of, without_padding

_SAMPLES = 16384
"""Input vectors of a layer that are looked at; many more than a layer has inputs to a channel."""
DAMPING = 0.01
BLOCK = 64
"""Columns that are rounded before the later ones hear of it."""


@torch.no_grad()
def compensate_rounding_(network: QuantizedNetwork, batches: Iterable[Any], settle: bool = True) -> tuple[str, ...]:
    """Replace weights by others on their grid that change the layer's outputs less.

    All layers see the inputs that the network has with every weight rounded to nearest.

    Args:
        network: at its plan and calibrated.
        batches: inputs only, each a tensor or a tuple of tensors; a few hundred examples.
        settle: False leaves each weight where it was when it was rounded: the codes are the same, and it is still known
            which ones were close.

    Returns:
        Names of the layers that were rounded so; tied, transposed, 3-d, embedding and functional weights are not.
    """
    moments = input_moments(network, batches)
    for name, moment in moments.items():
        quantizer = network.weight_quantizers[name]
        assert quantizer.bits is not None, "set_plan_ comes first"
        weight = network.weight(name)
        groups = moment.shape[0]
        rows = weight.detach().float().reshape(groups, weight.shape[0] // groups, -1)
        scales = quantizer.scale.detach().reshape(groups, -1)
        grid = weight_qmax(quantizer.bits, quantizer.midrise), quantizer.midrise
        weight.copy_(_compensated(rows, scales, moment, *grid, settle=settle).reshape(weight.shape))
    return tuple(moments)


@torch.no_grad()
def input_moments(network: QuantizedNetwork, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Second moments [groups, K, K] of the inputs of every layer that `compensate_rounding_` rounds, by its name."""
    layers = {spec.name: network.body.get_submodule(spec.name) for spec in network.graph.layers if not spec.tied}
    layers = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)}
    moments: dict[str, Tensor] = {}
    inputs = list(batches)
    padding, current = padding_of(network.graph.module), list[Tensor]()
    with _watched(layers, moments, max(1, _SAMPLES // max(1, len(inputs))), current):
        training = network.training
        network.eval()
        for batch in inputs:
            given = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
            stand_ins = padding.stand_ins(given)
            current[:] = [] if stand_ins is None else [stand_ins]
            network(*given)
        network.train(training)
    return moments


@torch.no_grad()
def settle_weights_(network: QuantizedNetwork) -> None:
    """Put every weight where its codes say that it is: on its grid. The codes stay as they are."""
    for name, quantizer in network.weight_quantizers.items():
        if quantizer.bits is not None:
            codes = network.codes(name)
            network.weight(name).copy_(dequantize_weight(codes, quantizer.scale, quantizer.axis))


@contextmanager
def _watched(
    layers: dict[str, nn.Module], moments: dict[str, Tensor], samples: int, stand_ins: Sequence[Tensor] = ()
) -> Iterator[None]:
    """While active, sum up every layer's second moments of its inputs: [groups, K, K]; `stand_ins` of the batch."""

    def watch(name: str) -> Any:
        def see(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = without_padding(arguments[0], stand_ins[0], attention=False) if stand_ins else arguments[0]
            vectors = input_vectors(module, x, samples)
            moment = vectors.transpose(1, 2) @ vectors
            moments[name] = moments[name] + moment if name in moments else moment

        return see

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_vectors(module: nn.Module, x: Tensor, samples: int) -> Tensor:
    """What a layer's weight rows are multiplied by: [groups, at most about `samples`, K], a regular sample."""
    x = x.detach().float()
    if isinstance(module, nn.Linear):
        flat = x.reshape(-1, x.shape[-1])
        return flat[:: max(1, len(flat) // samples)].unsqueeze(0)
    assert isinstance(module, nn.Conv1d | nn.Conv2d), "linear and convolution only"
    kernel, stride, dilation = list(module.kernel_size), list(module.stride), list(module.dilation)
    if isinstance(module.padding, str):
        total = [d * (k - 1) if module.padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        pads = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    else:
        pads = [side for p in reversed(module.padding) for side in (p, p)]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, pads, mode=mode)
    if isinstance(module, nn.Conv1d):
        x, kernel, stride, dilation = x.unsqueeze(2), [1, *kernel], [1, *stride], [1, *dilation]
    per_image = max(1, samples // len(x))
    windows = _windows(x, kernel, stride, dilation)  # [N, C, rows, columns, kernel...], no copy yet
    rows, columns = windows.shape[2:4]
    chosen = torch.arange(0, rows * columns, max(1, rows * columns // per_image) | 1, device=x.device)
    vectors = windows[:, :, chosen // columns, chosen % columns]  # [N, C, positions, kernel...]
    grouped = vectors.reshape(len(x), module.groups, -1, len(chosen), math.prod(kernel))
    return grouped.permute(1, 0, 3, 2, 4).reshape(module.groups, len(x) * len(chosen), -1)


def _windows(x: Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> Tensor:
    """Every place of a kernel over a padded input [N, C, H, W]: a view [N, C, rows, columns, kernel height, width]."""
    places = [
        (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    n, c, h, w = x.stride()
    steps = (n, c, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1])
    return x.as_strided((*x.shape[:2], *places, *kernel), steps, x.storage_offset())


def _compensated(
    rows: Tensor,
    scales: Tensor,
    moment: Tensor,
    qmax: int,
    midrise: bool,
    block: int = BLOCK,
    settle: bool = True,
) -> Tensor:
    """Rows on their grid, such that ``(w - w^)' moment (w - w^)`` is small for every row.

    Columns are rounded in the order of falling input power; what one rounds off, the later ones take over. Those of the
    same block take it over at once, all others when the block is done, in one matrix product: the same sums, of numbers
    that stay in the cache.

    Args:
        rows: [groups, rows, K].
        scales: [groups, rows].
        moment: [groups, K, K], the inputs' second moments.
        qmax: largest code.
        midrise: which grid.
        block: columns of a block.
        settle: False returns what was rounded, at most half a step outside of the grid.
    """
    power = moment.diagonal(dim1=1, dim2=2)
    order = power.argsort(dim=1, descending=True, stable=True)
    shares = feedback(moment, order, DAMPING * power.mean(1))
    columns = order[:, None].expand_as(rows)
    left = rows.gather(2, columns)
    result = torch.empty_like(left)
    for start in range(0, left.shape[2], block):
        part, later = slice(start, start + block), slice(start + block, None)
        present = left[:, :, part].permute(2, 0, 1).contiguous()  # [columns, groups, rows]
        errors = rows.gather(2, columns[:, :, part]).permute(2, 0, 1).contiguous()
        inner = shares[:, part, part].permute(1, 2, 0).contiguous()  # [column, later column, groups]
        for i in range(len(present)):
            rounded = round_to_codes_(present[i] / scales, qmax, midrise).mul_(scales)
            errors[i].sub_(rounded)
            if settle:
                present[i].copy_(rounded)
            present[i + 1 :].addcmul_(inner[i, i + 1 :, :, None], errors[i])
        result[:, :, part] = present.permute(1, 2, 0)
        left[:, :, later].baddbmm_(errors.permute(1, 2, 0), shares[:, part, later])
    rounded = torch.empty_like(rows).scatter_(2, columns, result)
    if settle:
        return rounded
    reach = (qmax + (1.0 if midrise else 0.5)) * scales[:, :, None]
    return torch.minimum(torch.maximum(rounded, -reach), reach)


def feedback(moment: Tensor, order: Tensor, damping: Tensor) -> Tensor:
    """Shares of the rounding errors of earlier columns that each later column takes over, [groups, K, K].

    With the damped moment written as ``U D U'``, U upper and of unit diagonal, column k of the best weights that are
    left is the float one and ``sum_j (w_j - w^_j) U[j, k]`` over the columns j before it. That is OPTQ in the form of
    LDLQ (Chee et al., NeurIPS 2023, arXiv 2307.13304, theorem 6): one Cholesky factor, where OPTQ as it is written
    takes two and an inverse. Groups without a factor share nothing: inputs are all zero, beyond numbers, or too much
    alike.

    Args:
        moment: [groups, K, K].
        order: of the columns, [groups, K].
        damping: what to add to the diagonal, [groups].
    """
    backwards = order.flip(1)  # of a matrix turned about, the lower factor is the upper one
    shares = torch.zeros_like(moment)
    possible = (damping != 0) & damping.isfinite()
    usable = torch.zeros_like(possible)
    for times in (1, 10, 100):
        open_ = (possible & ~usable).nonzero()[:, 0]
        if not len(open_):
            break
        damped = _sorted_moment(moment[open_], backwards[open_])
        damped.diagonal(dim1=1, dim2=2).add_(times * damping[open_, None])
        lower, failed = torch.linalg.cholesky_ex(damped)
        good = (failed == 0) & lower.isfinite().all(2).all(1)
        upper = lower[good].flip(1, 2)
        shares[open_[good]] = upper.div_(upper.diagonal(dim1=1, dim2=2)[:, None].clone())
        usable[open_[good]] = True
    return shares


def _sorted_moment(moment: Tensor, order: Tensor) -> Tensor:
    """Every group's moment with its rows and columns in that order."""
    if len(moment) == 1:
        return moment[:, order[0][:, None], order[0]]
    rows = moment.gather(1, order[:, :, None].expand_as(moment))
    return rows.gather(2, order[:, None].expand_as(moment))

"""Integer grids, rounding and scales: the arithmetic that every other module must agree with to the bit.

Weights: ``w = code * s_c``, symmetric, one scale per output channel, zero-point 0, on one of two uniform grids (named
as by Gersho and Gray, Vector Quantization and Signal Compression, 1992):

- mid-tread: every integer in ``-qmax..qmax`` with ``qmax = 2**(bits-1) - 1``, ``code = clamp(round(w / s_c))``. Its
  range is narrow, so that a negative BatchNorm gamma is a plain sign flip. It has a zero and leaves one of the
  ``2**bits`` codes unused.
- mid-rise: every odd integer in ``-qmax..qmax`` with ``qmax = 2**bits - 1``. No zero, no code unused: at 2 bits
  {-3, -1, 1, 3} in place of {-1, 0, 1} (ParetoQ, arXiv 2502.02631, finds the same at 2 bits for language models).

Activations: ``code = clamp(round(x / s) + z, qmin, qmax)``, affine, one scale per tensor, signed storage
``qmin = -2**(bits-1)``. Rounding is half to even, as in IEEE 754 and ONNX QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from sigmaquant.errors import PlanError
from sigmaquant.plan import MIDRISE_LARGEST, check_bitwidth

SCALE_FLOOR = 2.0**-40
"""Smallest scale: a channel of zeros still needs a positive one."""

_CLIP_RATIOS = torch.linspace(0.06, 1.0, 48)
_CHUNK_ELEMENTS = 1 << 20


def weight_qmax(bits: int, midrise: bool = False) -> int:
    """Largest weight code; the smallest is its negative.

    Raises:
        PlanError: a bitwidth outside 2..8, or 8 bits mid-rise, whose codes would not fit into int8.

    Example:
        >>> weight_qmax(2), weight_qmax(8), weight_qmax(2, midrise=True)
        (1, 127, 3)
    """
    if midrise and bits > MIDRISE_LARGEST:
        raise PlanError(f"a mid-rise weight has at most {MIDRISE_LARGEST} bits, not {bits}.")
    return int(2 ** (check_bitwidth(bits, "weight") - (not midrise))) - 1


def round_to_codes_(ratio: Tensor, qmax: int, midrise: bool = False) -> Tensor:
    """The nearest codes, in place; ties go to the even integer, mid-rise to the even pair."""
    if midrise:
        ratio.sub_(1).mul_(0.5).round_().mul_(2).add_(1)
    else:
        ratio.round_()
    return ratio.clamp_(-qmax, qmax)


def activation_range(bits: int) -> tuple[int, int]:
    """Smallest and largest activation code.

    Example:
        >>> activation_range(8), activation_range(2)
        ((-128, 127), (-2, 1))
    """
    half = int(2 ** (check_bitwidth(bits, "activation") - 1))
    return -half, half - 1


def channel_view(scale: Tensor, dims: int, axis: int) -> Tensor:
    """A per-channel vector [C] shaped so that it broadcasts along `axis` of a tensor with `dims` dimensions."""
    shape = [1] * dims
    shape[axis] = -1
    return scale.view(shape)


def quantize_weight(weight: Tensor, scale: Tensor, bits: int, axis: int = 0, midrise: bool = False) -> Tensor:
    """Integer codes, int8, of `weight`'s shape.

    Args:
        weight: float tensor.
        scale: [C] positive, C = weight.shape[axis].
        bits: 2..8.
        axis: the channel axis.
        midrise: which grid.
    """
    ratio = weight.detach().float() / channel_view(scale.detach().float(), weight.dim(), axis)
    return round_to_codes_(ratio, weight_qmax(bits, midrise), midrise).to(torch.int8)


def dequantize_weight(codes: Tensor, scale: Tensor, axis: int = 0) -> Tensor:
    """The float32 weight that the codes stand for: ``code * s_c``."""
    return codes.float() * channel_view(scale.detach().float(), codes.dim(), axis)


def quantize_activation(x: Tensor, scale: Tensor, zero_point: int, bits: int) -> Tensor:
    """Integer codes, int8, of an activation."""
    qmin, qmax = activation_range(bits)
    return ((x.detach().float() / scale.detach()).round_() + zero_point).clamp_(qmin, qmax).to(torch.int8)


def dequantize_activation(codes: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """The float32 activation that the codes stand for: ``(code - z) * s``."""
    return (codes.float() - zero_point) * scale.detach()


def affine_from_range(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero-point that cover ``[low, high]``; zero is always representable exactly.

    Example:
        >>> affine_from_range(0.0, 63.75, 8)
        (0.25, -128)
    """
    qmin, qmax = activation_range(bits)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (qmax - qmin), SCALE_FLOOR)
    return scale, int(max(qmin, min(qmax, round(qmin - low / scale))))


def mse_weight_scales(
    weight: Tensor, bits: int, axis: int = 0, importance: Tensor | None = None, midrise: bool = False
) -> Tensor:
    """Per-channel scales that minimise the squared quantization error.

    A grid over clipping ratios of the channel's largest magnitude, then alternating refinement: at fixed codes the
    best scale is ``<w, q> / <q, q>`` (Lloyd's step), kept only where it lowers the error.

    Args:
        weight: float tensor; NaN is the caller's error.
        bits: 2..8.
        axis: the channel axis, C channels.
        importance: optional non-negative weights of the squared errors, of `weight`'s shape.
        midrise: which grid.

    Returns:
        [C] float32, at least `SCALE_FLOOR`.
    """
    rows = weight.detach().float().movedim(axis, 0).flatten(1)
    scale = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    factors = None if importance is None else importance.detach().float().movedim(axis, 0).flatten(1)
    step = max(1, _CHUNK_ELEMENTS // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        weights = None if factors is None else factors[part]
        scale[part] = _mse_rows(rows[part], weight_qmax(bits, midrise), midrise, weights)
    return scale


def _mse_rows(rows: Tensor, qmax: int, midrise: bool, importance: Tensor | None) -> Tensor:
    largest = rows.abs().amax(1).clamp_min_(SCALE_FLOOR * qmax)
    best = largest / qmax
    codes = torch.empty_like(rows)
    error = torch.empty_like(rows)

    def measure(scale: Tensor) -> Tensor:
        round_to_codes_(torch.div(rows, scale[:, None], out=codes), qmax, midrise)
        torch.mul(codes, scale[:, None], out=error).sub_(rows).square_()
        return (error if importance is None else error.mul_(importance)).sum(1)

    lowest = measure(best)
    for ratio in _CLIP_RATIOS[:-1].tolist():
        candidate = (largest * (ratio / qmax)).clamp_min_(SCALE_FLOOR)
        loss = measure(candidate)
        better = loss < lowest
        best, lowest = torch.where(better, candidate, best), torch.where(better, loss, lowest)
    for _ in range(4):
        measure(best)  # leaves the codes of the best scale
        weighted = codes if importance is None else codes * importance
        candidate = ((rows * weighted).sum(1) / (codes * weighted).sum(1).clamp_min(1e-30)).clamp_min(SCALE_FLOOR)
        loss = measure(candidate)
        better = loss < lowest
        if not bool(better.any()):
            break
        best, lowest = torch.where(better, candidate, best), torch.where(better, loss, lowest)
    return best


class _FakeQuantizeWeight(torch.autograd.Function):
    """LSQ (Esser et al., ICLR 2020) for a weight with one scale per channel."""

    @staticmethod
    def forward(ctx, weight: Tensor, scale: Tensor, qmax: int, axis: int, midrise: bool) -> Tensor:  # type: ignore[no-untyped-def]
        view = channel_view(scale, weight.dim(), axis)
        ratio = weight / view
        codes = round_to_codes_(ratio.clone(), qmax, midrise)
        ctx.save_for_backward(ratio, codes)
        ctx.qmax, ctx.axis = qmax, axis
        return codes * view

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        ratio, codes = ctx.saved_tensors
        inside = ratio.abs() <= ctx.qmax
        grad_weight = grad * inside
        # d(code * s)/ds = code - ratio inside the range (straight-through), the clipped code outside.
        per_element = grad * codes.sub(ratio * inside)
        axes = [d for d in range(grad.dim()) if d != ctx.axis % grad.dim()]
        # LSQ's gradient scale keeps the step sizes of scale and weight comparable.
        grad_scale = per_element.sum(axes) * (ctx.qmax * per_element.numel() / codes.shape[ctx.axis]) ** -0.5
        return grad_weight, grad_scale, None, None, None


def raw_bytes(value: Tensor) -> bytes:
    """A tensor's values as they lie in memory, in row-major order: what digests are made of."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


_part: ContextVar[tuple[int, int, int] | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(first: int, count: int, whole: int) -> Iterator[None]:
    """While active, activations are those of `count` examples, from the `first`, of a batch of `whole`.

    What is sampled is then the same as of the whole batch, wherever it is cut.
    """
    token = _part.set((first, count, whole))
    try:
        yield
    finally:
        _part.reset(token)


def _sampled(rows: int, stride: int, part: tuple[int, int, int] | None) -> tuple[int, float]:
    """First sampled row, and for how many rows of the whole batch each one stands.

    Example:
        Rows 0 and 8 of a batch of 12, cut after 6: the second part has the row 8 as its row 2.

        >>> _sampled(12, 8, None), _sampled(6, 8, (0, 6, 12)), _sampled(6, 8, (6, 6, 12))
        ((0, 6.0), (0, 6.0), (2, 6.0))
    """
    if part is None or rows % part[1]:  # rows that are not of examples
        return 0, rows / -(-rows // stride)
    first, count, whole = part
    each = rows // count
    return -first * each % stride, whole * each / -(-whole * each // stride)


class _FakeQuantizeActivation(torch.autograd.Function):
    """LSQ for an activation with one scale; the zero-point stays fixed.

    Four in-place passes forward and one fused kernel backward: on a CPU that is ten times faster than
    torch.fake_quantize_per_tensor_affine, whose kernel is not vectorised. The scale's gradient is an unbiased
    estimate from every `stride`-th example of the batch, so that it costs a fraction of a pass; there the output is
    computed once more rather than kept, so that the next operator may overwrite it.

    LSQ's gradient scale is 1 / sqrt(values of one example x largest magnitude of a code without its zero-point).
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, low: int, high: int, stride: int) -> Tensor:  # type: ignore[no-untyped-def]
        step = scale.detach().to(x.dtype)
        y = torch.div(x, step).round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.stride, ctx.part = low, high, stride, _part.get()
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, scale = ctx.saved_tensors
        step = float(scale)
        # hardtanh's backward is strict at its bounds; half a step outside keeps codes at the bounds trainable.
        low, high = (ctx.low - 0.5) * step, (ctx.high + 0.5) * step
        grad_x = None
        if ctx.needs_input_grad[0]:
            # Written into x's memory format: a gradient in another one would slow every backward kernel above.
            grad_x = torch.ops.aten.hardtanh_backward.grad_input(grad, x, low, high, grad_input=torch.empty_like(x))
        grad_scale = None
        if ctx.needs_input_grad[1]:
            first, weight = _sampled(len(x), ctx.stride, ctx.part)
            part = slice(first, None, ctx.stride)
            xs, gs = x[part], grad[part]
            grid = scale.detach().to(x.dtype)
            y = torch.div(xs, grid).round_().clamp_(ctx.low, ctx.high).mul_(grid)
            # y - x is the rounding error inside the range; outside it is y itself, the bound.
            error = y.sub_(xs * ((xs > low) & (xs < high)))
            factor = weight / step * (max(ctx.high, -ctx.low) * x[0].numel()) ** -0.5
            grad_scale = error.mul_(gs).sum(dtype=torch.float32).mul_(factor).reshape(scale.shape)
        return grad_x, grad_scale, None, None, None


def fake_quantize_weight(weight: Tensor, scale: Tensor, bits: int, axis: int = 0, midrise: bool = False) -> Tensor:
    """`dequantize_weight(quantize_weight(...))`, differentiable: straight-through, with LSQ's scale gradient.

    Args:
        weight: float tensor.
        scale: [C] positive.
        bits: 2..8.
        axis: the channel axis.
        midrise: which grid.
    """
    qmax = weight_qmax(bits, midrise)
    result: Tensor = _FakeQuantizeWeight.apply(weight, scale, qmax, axis, midrise)  # type: ignore[no-untyped-call]
    return result


def fake_quantize_activation(x: Tensor, scale: Tensor, zero_point: int, bits: int, stride: int = 8) -> Tensor:
    """`dequantize_activation(quantize_activation(...))`, differentiable with respect to `x` and `scale`.

    Args:
        x: float tensor, batch first.
        scale: one positive element.
        zero_point: integer in the activation range.
        bits: 2..8.
        stride: the scale's gradient is estimated from every `stride`-th example.
    """
    qmin, qmax = activation_range(bits)
    result: Tensor = _FakeQuantizeActivation.apply(x, scale, qmin - zero_point, qmax - zero_point, stride)  # type: ignore[no-untyped-call]
    return result

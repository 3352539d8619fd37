"""Every operator with ordinary and with odd arguments: what tests walk against the integers and every exporter.

A case is one operator between two layers of a small network, or at its end. `INTEGER` ones have an integer form;
`FLOAT` ones must be listed by name instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Body = Callable[[Any, Tensor], Tensor]
SHAPE = (4, 6, 6)
"""Of one example: channels and an image."""


class Case(nn.Module):
    """A convolution, the operator, and what it needs of constants."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.before, self.body = nn.Conv2d(4, 8, 3, padding=1), body
        self.norm, self.line = nn.BatchNorm2d(8), nn.Linear(6, 5)
        self.point = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.up_dilated = nn.ConvTranspose2d(8, 4, 3, stride=(1, 2), dilation=2)
        self.slopes = nn.PReLU(8, init=0.2)
        self.matrix = nn.Parameter(torch.randn(6, 5, generator=generator) * 0.4)
        self.offset = nn.Parameter(torch.randn(5, generator=generator) * 0.1)
        self.token = nn.Parameter(torch.randn(1, 1, 36, generator=generator))
        buffers = {
            "index": torch.tensor([3, 1, 2]),
            "by_channel": torch.linspace(0.5, 2, 8).view(1, 8, 1, 1),
            "by_row": torch.linspace(-1, 1, 6).view(6, 1),
            "by_column": torch.linspace(-1, 1, 6),
            "by_value": torch.randn(1, 8, 6, 6, generator=generator),
            "one": torch.tensor(0.3),
            "mask": torch.rand(6, 6, generator=generator) > 0.5,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)
        with torch.no_grad():
            self.slopes.weight.uniform_(-0.5, 0.5, generator=generator)
            self.norm.running_mean.normal_(generator=generator)
            self.norm.running_var.uniform_(0.5, 2, generator=generator)
            self.norm.weight.uniform_(-1, 2, generator=generator)
        self.lstm, self.lstm_cell = nn.LSTM(36, 6, batch_first=True), nn.LSTMCell(36, 6)
        self.lstm_both_ways = nn.LSTM(36, 5, 2, bidirectional=True, dropout=0.2)
        self.gru, self.gru_cell = nn.GRU(36, 6, 2, batch_first=True), nn.GRUCell(36, 6)
        self.rnn = nn.RNN(36, 6, bias=False, batch_first=True)
        self.rnn_relu = nn.RNN(36, 6, nonlinearity="relu", batch_first=True, bidirectional=True)
        self.lstm_projected = nn.LSTM(36, 6, proj_size=3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.before(x))


def cells(m: Any, x: Tensor) -> Tensor:
    """Two cells in a loop of the user's."""
    h = c = g = torch.zeros(x.shape[0], 6)
    outputs = []
    for step in x.flatten(2).unbind(1):
        h, c = m.lstm_cell(step, (h, c))
        g = m.gru_cell(step, g)
        outputs.append(torch.cat([h, g], 1))
    return torch.stack(outputs, 1)


def states(m: Any, x: Tensor) -> Tensor:
    """States that go in and out."""
    y, (h, c) = m.lstm(x.flatten(2), (x[:, 0, 0][None], x[:, 1, 1][None]))
    return torch.cat([y[:, 0], h[0], c[0]], 1)


def _normal(x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(1, keepdim=True) + 1e-5)


def _shifted(scores: Tensor) -> Tensor:
    """Scores by distance, moved to scores by position: a column of zeros, and rows that begin one place later."""
    columns = torch.cat([scores.new_zeros(scores.shape[0], 8, 6, 1), scores], -1).view(-1, 8, 7, 6)
    return columns[:, :, 1:].view_as(scores)


def _shifted_by_padding(scores: Tensor) -> Tensor:
    """The same by padding, with the first axis folded into the batch."""
    rows = F.pad(scores.reshape(-1, 6, 6), (0, 1)).flatten(1)
    return rows.reshape(-1, 7, 6)[:, 1:, :].reshape(scores.shape[0], 8, 6, 6)


INTEGER: dict[str, Body] = {
    # clipping
    "clamp_tensor": lambda m, x: torch.clamp(x, max=m.one),
    "clamp_min": lambda m, x: x.clamp(min=-0.2),
    "clamp_max": lambda m, x: x.clamp(max=0.2),
    "clamp_max_function": lambda m, x: torch.clamp_max(x, 0.2),
    "clamp_both": lambda m, x: x.clamp(-0.1, 0.3),
    "clamp_crossed": lambda m, x: x.clamp(0.3, -0.1),
    "hardtanh": lambda m, x: F.hardtanh(x, -0.3, 0.1),
    "relu6": lambda m, x: F.relu6(x * 9),
    "relu_then_relu6": lambda m, x: F.relu6(F.relu(x) * 20),
    "in_place_relu": lambda m, x: F.relu_(x).add_(1.0),
    "maximum_number": lambda m, x: torch.maximum(x, torch.zeros(())),
    # functions of one value
    "abs": lambda m, x: x.abs(),
    "sqrt": lambda m, x: x.abs().sqrt(),
    "rsqrt": lambda m, x: (x.abs() + 0.1).rsqrt(),
    "reciprocal": lambda m, x: 1 / (x.abs() + 0.5),
    "divided": lambda m, x: 2 / (x.abs() + 1),
    "log": lambda m, x: torch.log(x.abs() + 1e-3),
    "exp": lambda m, x: x.exp(),
    "erf": lambda m, x: x.erf(),
    "tanh": lambda m, x: x.tanh(),
    "sigmoid": lambda m, x: m.point(x.sigmoid()),
    "gelu": lambda m, x: F.gelu(x),
    "gelu_tanh": lambda m, x: F.gelu(x, approximate="tanh"),
    "silu": lambda m, x: F.silu(x),
    "hardswish": lambda m, x: F.hardswish(x * 3),
    "hardsigmoid": lambda m, x: F.hardsigmoid(x * 3),
    "mish": lambda m, x: F.mish(x),
    "softplus": lambda m, x: F.softplus(x, 3, 5),
    "elu": lambda m, x: F.elu(x, 0.3),
    "leaky": lambda m, x: F.leaky_relu(x, -0.3),
    "prelu_one": lambda m, x: F.prelu(x, m.one.reshape(1)),
    "threshold": lambda m, x: F.threshold(x, 0.1, 0.2),
    "square": lambda m, x: x**2,
    "cube": lambda m, x: x**3,
    "power": lambda m, x: 2**x,
    "product_with_itself": lambda m, x: x * x,
    "div_trunc": lambda m, x: torch.div(x, 0.3, rounding_mode="trunc"),
    "div_floor": lambda m, x: torch.div(x, 0.3, rounding_mode="floor"),
    "floor_divide": lambda m, x: x // 0.3,
    "remainder": lambda m, x: x % 0.3,
    "round": lambda m, x: (x * 3).round(),
    "sign": lambda m, x: x.sign(),
    "where_number": lambda m, x: torch.where(x > 0.1, x, 0.2),
    "masked_fill_of_itself": lambda m, x: x.masked_fill(x > 0, 0.5),
    # arithmetic
    "neg": lambda m, x: -x,
    "times_channel": lambda m, x: x * m.by_channel,
    "plus_channel": lambda m, x: x + m.by_channel,
    "minus_channel": lambda m, x: x - m.by_channel,
    "channel_minus": lambda m, x: m.by_channel - x,
    "over_channel": lambda m, x: x / m.by_channel,
    "plus_row": lambda m, x: m.by_row + x,
    "times_row": lambda m, x: m.by_row * x,
    "plus_column": lambda m, x: x + m.by_column,
    "times_value": lambda m, x: x * m.by_value,
    "plus_value": lambda m, x: m.by_value + x,
    "times_buffer": lambda m, x: x * m.one,
    "add_alpha": lambda m, x: torch.add(x, x.abs(), alpha=-2),
    "sub_alpha": lambda m, x: torch.sub(x, x.abs(), alpha=3),
    "rsub_alpha": lambda m, x: torch.rsub(x, 1.0, alpha=2),
    "add_alpha_channel": lambda m, x: torch.add(x, m.by_channel, alpha=3),
    "add_alpha_first": lambda m, x: torch.add(m.by_channel, x, alpha=2),
    "sub_alpha_number": lambda m, x: torch.sub(x, 0.5, alpha=2),
    "addcmul": lambda m, x: torch.addcmul(x, x, x.abs(), value=0.5),
    "lerp": lambda m, x: torch.lerp(x, x.abs(), 0.3),
    "x_plus_x": lambda m, x: x + x,
    "minus_mean": lambda m, x: x - x.mean((2, 3), True),
    "plus_rows": lambda m, x: x + x.mean(3, True),
    "gate": lambda m, x: x * torch.sigmoid(x.mean((2, 3), True)),
    "outer": lambda m, x: x.mean(2, True) * x.mean(3, True),
    "outer_sum": lambda m, x: x.mean(2, True) + x.mean(3, True),
    "twice_relu": lambda m, x: F.relu(x) * 2 + 1,
    "norm_of_pool": lambda m, x: F.relu(m.norm(F.max_pool2d(x, 2))),
    "norm_after_layer": lambda m, x: m.norm(m.point(x)),
    "scaled_layer": lambda m, x: m.point(x) * 0.1 + x,
    "bias_by_hand": lambda m, x: m.point(x) + m.by_channel,
    "bias_along_width": lambda m, x: m.point(x) + m.by_column,
    "constant_minus_layer": lambda m, x: m.by_channel - m.point(x),
    # two tensors
    "maximum": lambda m, x: torch.maximum(x, x * 0.5),
    "minimum": lambda m, x: torch.minimum(x, x.flip(3)),
    "max_of_two": lambda m, x: torch.max(x, x.mean(1, True)),
    "where": lambda m, x: torch.where(x > 0, x.abs(), -x),
    "where_other": lambda m, x: torch.where(x.mean(1, True) > 0.02, x, x.flip(1)),
    "masked_fill": lambda m, x: x.masked_fill(m.mask, 0.5),
    "where_constant": lambda m, x: torch.where(m.mask, x, m.by_column),
    "glu": lambda m, x: F.glu(x, 1),
    "prelu": lambda m, x: m.slopes(x),
    "cat": lambda m, x: torch.cat([x, x.abs(), -x], 1),
    "cat_last": lambda m, x: torch.cat([x, x.abs()], -1),
    "cat_itself": lambda m, x: torch.cat([x, x], 2),
    "cat_constant": lambda m, x: torch.cat([m.by_value.expand(x.shape[0], -1, -1, -1), x], 1),
    "cat_zeros": lambda m, x: torch.cat([x, torch.zeros_like(x)], 1),
    "cat_zeros_both_sides": lambda m, x: torch.cat([x.new_zeros(x.shape[0], 8, 6, 2), x, x[:, :, :, :1] * 0], 3),
    "cat_ones": lambda m, x: torch.cat([torch.ones(x.shape[0], 1, 6, 6), x], 1),
    "where_zeros_like": lambda m, x: torch.where(m.mask, x, torch.zeros_like(x)),
    "stacked_with_full": lambda m, x: torch.stack([x, x.new_full((x.shape[0], 8, 6, 6), 0.3)], 1).flatten(1, 2),
    "cat_relu": lambda m, x: F.relu(torch.cat([x, -x], 1)),
    "cat_token": lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x.flatten(2)], 1),
    "clamped_cat": lambda m, x: torch.cat([x, x * 3], 1).clamp(-0.2, 0.2),
    "stack": lambda m, x: torch.stack([x, x.abs()], 2),
    "hstack": lambda m, x: torch.hstack([x, x.abs()]),
    "unit_length": lambda m, x: F.normalize(x, dim=1),
    "unit_length_last": lambda m, x: F.normalize(x, dim=-1),
    "unit_length_by_hand": lambda m, x: x / x.norm(dim=1, keepdim=True),
    # places
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "channel_shuffle_by_hand": lambda m, x: x.view(x.shape[0], 2, 4, 6, 6).transpose(1, 2).reshape(x.size(0), -1, 6, 6),
    "unfold": lambda m, x: F.unfold(x, 3, padding=1),
    "unfold_strided": lambda m, x: F.unfold(x, (2, 3), dilation=(2, 1), stride=(1, 2)),
    "tensor_unfold": lambda m, x: x.unfold(2, 2, 1),
    "roll": lambda m, x: torch.roll(x, (1, -2), (2, 3)),
    "flip": lambda m, x: x.flip(3, 1),
    "rot90": lambda m, x: torch.rot90(x, 1, (2, 3)),
    "rot270": lambda m, x: torch.rot90(x, 3, (2, 3)),
    "index_select": lambda m, x: x.index_select(1, m.index),
    "index": lambda m, x: x[:, m.index],
    "select": lambda m, x: x[:, 2],
    "select_negative": lambda m, x: x[..., -1],
    "negative_slice": lambda m, x: x[:, :, -3:],
    "step_slice": lambda m, x: x[:, ::3],
    "narrow": lambda m, x: x.narrow(1, 2, 3),
    "chunk": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "uneven_chunk": lambda m, x: x.chunk(3, 1)[2],
    "split": lambda m, x: x.split([3, 5], 1)[1],
    "unbind": lambda m, x: x.unbind(1)[3],
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda m, x: x.repeat_interleave(2, 1),
    "tile": lambda m, x: x.tile(1, 2, 1, 1),
    "expand": lambda m, x: x.mean(1, True).expand(-1, 4, -1, -1),
    "pad": lambda m, x: F.pad(x, (1, 2, 0, 1)),
    "pad_negative": lambda m, x: F.pad(x, (-1, 1)),
    "reflect": lambda m, x: F.pad(x, (1, 2, 3, 1), "reflect"),
    "replicate": lambda m, x: F.pad(x, (1, 1, 1, 1), "replicate"),
    "circular": lambda m, x: F.pad(x, (1, 1, 1, 1), "circular"),
    "transpose": lambda m, x: x.transpose(1, 3),
    "permute": lambda m, x: m.line(x.permute(0, 3, 2, 1)[..., :6]),
    "movedim": lambda m, x: x.movedim(1, 3),
    "view_from_shape": lambda m, x: x.view(x.size(0), -1),
    "reshape_from_shape": lambda m, x: x.reshape(x.shape[0], x.shape[1] * 2, -1),
    "channels_last": lambda m, x: x.contiguous(memory_format=torch.channels_last),
    "frames": lambda m, x: x.reshape(-1, 4, 6, 6).abs().reshape(-1, 8, 6, 6),
    "frames_of_lines": lambda m, x: m.line(x.reshape(-1, 6)).view(x.shape[0], 8, 6, 5),
    "nearest_double": lambda m, x: F.interpolate(x, scale_factor=2),
    "nearest_odd": lambda m, x: F.interpolate(x, scale_factor=1.5),
    "nearest_exact": lambda m, x: F.interpolate(x, size=(10, 4), mode="nearest-exact"),
    # windows
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear_corners": lambda m, x: F.interpolate(x, size=(9, 13), mode="bilinear", align_corners=True),
    "bilinear_down": lambda m, x: F.interpolate(x, size=(4, 5), mode="bilinear"),
    "linear_resize": lambda m, x: F.interpolate(x.flatten(2), scale_factor=1.5, mode="linear"),
    "max_ceil": lambda m, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_dilated": lambda m, x: F.max_pool2d(x, 2, 1, 0, 2),
    "max_asymmetric": lambda m, x: F.max_pool2d(x, (2, 3), (1, 2)),
    "adaptive_max": lambda m, x: F.adaptive_max_pool2d(x, (4, 3)),
    "amax": lambda m, x: x.amax((2, 3)),
    "amax_channels": lambda m, x: x.amax(1, keepdim=True),
    "amin": lambda m, x: x.amin(1),
    "max_values": lambda m, x: x.max(1)[0],
    "average": lambda m, x: F.avg_pool2d(x, 2),
    "average_ceil": lambda m, x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "average_ceil_padded": lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average_without_padding": lambda m, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "average_divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "average_asymmetric": lambda m, x: F.avg_pool2d(x, (2, 3), (1, 2), (1, 0)),
    "adaptive_even": lambda m, x: F.adaptive_avg_pool2d(x, 3),
    "adaptive_uneven": lambda m, x: F.adaptive_avg_pool2d(x, (4, 5)),
    "mean_channel": lambda m, x: x.mean(1),
    "mean_last": lambda m, x: x.mean(-1, True),
    "mean_all": lambda m, x: x.mean((1, 2, 3), True),
    "sum": lambda m, x: x.sum((2, 3)),
    # layers
    "transposed": lambda m, x: m.up(x),
    "transposed_dilated": lambda m, x: m.up_dilated(x),
    "matmul_parameter": lambda m, x: x @ m.matrix,
    "linear_functional": lambda m, x: F.linear(x, m.matrix.t(), m.offset),
    "addmm": lambda m, x: torch.addmm(m.offset, x.reshape(-1, 6), m.matrix).view(x.shape[0], 8, 6, 5),
    "dropout_off": lambda m, x: F.dropout(x, 0.5, False),
    # normalizations, softmax and products of activations
    "layer_norm": lambda m, x: F.layer_norm(x, (6,), m.by_column + 1.5, m.by_column),
    "layer_norm_two_axes": lambda m, x: F.layer_norm(x, (6, 6)),
    "layer_norm_relu": lambda m, x: F.relu(F.layer_norm(x.permute(0, 2, 3, 1), (8,)) * 2 + 0.5),
    "rms_norm": lambda m, x: F.rms_norm(x, (6,), m.by_column + 1.5, 1e-5),
    "group_norm": lambda m, x: F.group_norm(x, 2, m.by_channel.flatten(), m.by_channel.flatten() - 1),
    "instance_norm": lambda m, x: F.instance_norm(x),
    "norm_by_hand": lambda m, x: (x - x.mean(1, True)) / torch.sqrt(x.var(1, keepdim=True) + 1e-5),
    "norm_by_hand_affine": lambda m, x: m.by_channel * _normal(x) + m.by_channel,
    "rms_norm_by_hand": lambda m, x: m.by_column * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)),
    "softmax_where": lambda m, x: torch.where(m.mask, x * 3, -1e9).softmax(-1) * 2,
    "softmax_bias_and_mask": lambda m, x: (x * 3 + (m.matrix[:, :1] + torch.where(m.mask, 0.0, -1e9))).softmax(-1) * 2,
    "softmax_masked_twice": lambda m, x: (
        (x.masked_fill(m.mask & m.mask.T, -1e9) + torch.where(m.mask & ~m.mask.T, -1e9, 0.0)).softmax(-1) * 2
    ),
    "baddbmm_masked": lambda m, x: torch.baddbmm(
        torch.where(m.mask, 0.0, -1e9).expand(x.shape[0], 6, 6), x[:, 0], x[:, 1].transpose(1, 2)
    ).softmax(-1)
    * 2,
    "cat_with_an_empty_part": lambda m, x: torch.cat([x, x[:, :0]], 1),
    "cat_with_nothing": lambda m, x: torch.cat((torch.zeros(0), x), 2) * 2,
    "layer_of_constants": lambda m, x: x + m.point(m.by_value),
    "softmax_inside": lambda m, x: m.point(x.softmax(1)),
    "softmax_last": lambda m, x: m.point((x * 4).softmax(-1)),
    "matmul": lambda m, x: x @ x.transpose(2, 3) * 0.3,
    "matmul_broadcast": lambda m, x: x.mean(1, True) @ x,
    "bmm": lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)),
    "einsum": lambda m, x: torch.einsum("nchw,ndhv->ncdwv", x[:, :3], x[:, 3:5]),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x.flip(2), x * 2),
    "causal_attention": lambda m, x: F.scaled_dot_product_attention(x, x.flip(2), x, is_causal=True),
    "masked_attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.mask | ~m.mask.any(1, True)),
    "additive_mask": lambda m, x: (x + m.mask * -1e9).softmax(-1) @ x,
    "scores_and_others": lambda m, x: (x + x.flip(1) * 9).softmax(-1) @ x,
    "shifted_positions": lambda m, x: (m.line(x) @ x[:, :, :5] + _shifted(x)).softmax(-1) @ x,
    "shifted_by_padding": lambda m, x: (x @ x.flip(2) + _shifted_by_padding(x)).softmax(-1) @ x,
    "relative_positions": lambda m, x: (x * 3 + m.by_value).softmax(-1) @ x,
    # recurrent
    "lstm": lambda m, x: m.lstm(x.flatten(2))[0],
    "lstm_both_ways": lambda m, x: m.lstm_both_ways(x.flatten(2).transpose(0, 1))[0][-1],
    "lstm_states": states,
    "gru": lambda m, x: m.gru(x.flatten(2))[0],
    "gru_last": lambda m, x: m.gru(x.flatten(2))[1][-1],
    "rnn": lambda m, x: m.rnn(x.flatten(2))[0],
    "rnn_relu": lambda m, x: m.rnn_relu(x.flatten(2))[0],
    "cells": cells,
    # endings
    "softmax": lambda m, x: x.flatten(1).softmax(1),
    "log_softmax": lambda m, x: F.log_softmax(x, 1),
    "sigmoid_at_the_end": lambda m, x: x.sigmoid(),
}  # fmt: skip

FLOAT: dict[str, tuple[Body, str]] = {
    "dropout_on": (lambda m, x: F.dropout(x, 0.5, True), "dropout"),
    "feature_dropout_on": (lambda m, x: F.dropout2d(x, 0.5, True), "feature_dropout"),
    "to_int": (lambda m, x: x.to(torch.int32).float(), "to"),
    "half": (lambda m, x: x.half().float(), "to"),
    "double": (lambda m, x: x.double().float(), "to"),
    "flip_batch": (lambda m, x: x.flip(0), "flip"),
    "sort": (lambda m, x: x.sort(1)[0], "sort"),
    "topk": (lambda m, x: x.topk(3, 1)[0], "topk"),
    "cumsum": (lambda m, x: x.cumsum(1), "cumsum"),
    "tril": (lambda m, x: x.tril(), "tril"),
    "var": (lambda m, x: x.var((2, 3)), "var"),
    "pad_with_one": (lambda m, x: F.pad(x, (1, 1), value=1.0), "pad"),
    "view_of_another_type": (lambda m, x: x.view(torch.int32).view(torch.float32), "view"),
    "quotient": (lambda m, x: x / (x.flip(1).abs() + 1), "div"),
    "norm_by_deviation": (lambda m, x: (x - x.mean(1, True)) / (x.std(1, keepdim=True) + 1e-5), "div"),
    "live_mask": (lambda m, x: (x + x.flip(1) * -1e9).softmax(-1) @ x, "add"),
    "mean_in_double": (lambda m, x: x.mean((2, 3), dtype=torch.float64).float(), "mean"),
    "mean_of_the_batch": (lambda m, x: x - x.mean(0, keepdim=True), "mean"),
    "lstm_projected": (lambda m, x: m.lstm_projected(x.flatten(2))[0], "lstm"),
}

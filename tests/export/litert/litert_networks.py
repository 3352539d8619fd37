"""Networks that walk every integer operator with arguments and shapes that are seldom met."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from litert_cases import Call
from torch import nn


def conv(i=4, o=4, k=3, **options):
    return nn.Conv2d(i, o, k, **options)


def shared(**options):
    """A convolution that keeps the image's shape."""
    return conv(padding=1, **options)


class Indices(nn.Module):
    """Indices as a buffer."""

    def __init__(self, *places):
        super().__init__()
        self.register_buffer("places", torch.tensor(places))


def constant(*shape):
    return nn.ParameterDict(
        {"c": nn.Parameter(torch.linspace(-1.5, 2, int(torch.tensor(shape).prod())).reshape(shape))}
    )


def on_image(function, **layers):
    return Call(function, a=shared(), **layers), ((4, 6, 5),)


def on_rows(function, **layers):
    return Call(function, a=nn.Linear(6, 8), **layers), ((5, 6),)


def slopes(*values):
    """A PReLU with these slopes."""
    layer = nn.PReLU(len(values))
    layer.weight.data = torch.tensor(values)
    layer.reset_parameters = lambda: None  # they stay
    return layer


def frames(m, x):
    """A convolution of each frame, and back."""
    n, t = x.shape[:2]
    return m.a(x.reshape(n * t, *x.shape[2:])).reshape(n, t, -1)


def windows(m, x):
    """Windows of 2x2 in rows of the batch, as attention in windows has them."""
    n, h, w, c = x.shape
    y = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    y = m.a(y)
    y = y.reshape(n, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h, w, -1)


MOVES = {
    "flip": on_image(lambda m, x: m.a(x).flip(3)),
    "flip of channels": on_image(lambda m, x: m.a(x).flip(1)),
    "roll": on_image(lambda m, x: m.a(x).roll((1, -2), (2, 3))),
    "repeat": on_image(lambda m, x: m.a(x).repeat(1, 2, 1, 3)),
    "repeat interleaved": on_image(lambda m, x: m.a(x).repeat_interleave(2, 1)),
    "expand": on_image(lambda m, x: m.a(x).mean(1, keepdim=True).expand(-1, 3, -1, -1)),
    "indices": on_rows(lambda m, x: m.a(x).index_select(1, m.i.places), i=Indices(3, 0, 0, 4)),
    "nearest": on_image(lambda m, x: F.interpolate(m.a(x), scale_factor=(2.0, 1.5))),
    "nearest 1d": (Call(lambda m, x: F.interpolate(m.a(x), size=17), a=nn.Conv1d(3, 5, 3)), ((3, 9),)),
    "reflect": on_image(lambda m, x: F.pad(m.a(x), (2, 1, 1, 2), mode="reflect")),
    "replicate": on_image(lambda m, x: F.pad(m.a(x), (2, 1, 1, 2), mode="replicate")),
    "circular": on_image(lambda m, x: F.pad(m.a(x), (2, 1, 1, 2), mode="circular")),
    "chunks": on_image(lambda m, x: m.a(x).chunk(2, 1)[1]),
    "unbind": on_rows(lambda m, x: m.a(x).unbind(1)[2]),
    "pixel shuffle": on_image(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), b=conv(1, 3)),
    "pixel unshuffle": (Call(lambda m, x: m.b(F.pixel_unshuffle(m.a(x), 2)), a=shared(), b=conv(16, 3)), ((4, 6, 8),)),
    "channel shuffle": on_image(lambda m, x: F.channel_shuffle(m.a(x), 2)),
    "unfold": on_image(lambda m, x: F.unfold(m.a(x), 3, padding=1)),
    "six dimensions": (Call(windows, a=nn.Linear(6, 8)), ((4, 6, 6),)),
    "rows": (Call(frames, a=shared(o=2)), ((3, 4, 5, 5),)),
    "pad of five dimensions": (
        Call(lambda m, x: F.pad(m.a(x), (1, 0, 0, 2, 0, 0, 1, 1)), a=nn.Linear(3, 4)),
        ((2, 1, 3, 2, 3),),
    ),
    "slice of five dimensions": (Call(lambda m, x: m.a(x)[:, :, :, 1:, :, ::2], a=nn.Linear(3, 4)), ((2, 1, 3, 2, 3),)),
    "turned": (Call(lambda m, x: torch.rot90(m.a(x), 1, (2, 3)), a=shared()), ((4, 5, 5),)),
    "one channel": (Call(lambda m, x: m.b(m.a(x).transpose(2, 3)), a=conv(1, 1), b=conv(1, 2)), ((1, 7, 6),)),
    "one place": (Call(lambda m, x: m.a(x).flatten(1), a=conv(4, 6, 3)), ((4, 3, 3),)),
    "stack": on_image(lambda m, x: torch.stack([m.a(x), x], 2)),
}

ARITHMETIC = {
    "broadcast sum": on_image(lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True)),
    "broadcast difference": on_image(lambda m, x: x.mean(1, keepdim=True) - m.a(x)),
    "broadcast both": on_image(lambda m, x: m.a(x).mean(3, keepdim=True) + x.mean(2, keepdim=True)),
    "broadcast product": on_image(lambda m, x: m.a(x) * x.mean(3, keepdim=True)),
    "broadcast of fewer dimensions": (
        Call(lambda m, x, y: m.a(x) + m.b(y)[:, None], a=nn.Linear(6, 8), b=nn.Linear(3, 8)),
        ((5, 6), (3,)),
    ),
    "broadcast of five dimensions": (
        Call(lambda m, x: m.a(x) - x.mean((2, 4), keepdim=True), a=nn.Linear(3, 3)),
        ((2, 2, 3, 2, 3),),
    ),
    "sum with a number": on_image(lambda m, x: m.a(x) + x - 0.7),
    "negative sum": on_image(lambda m, x: -m.a(x) - x),
    "weighted sum": on_image(lambda m, x: torch.sub(x, m.a(x), alpha=0.3)),
    "sum with next to nothing": on_image(lambda m, x: m.a(x) + 1e-3 * x),
    "a small number": on_image(lambda m, x: F.max_pool2d(m.a(x), 2) + 1e-3),
    "a large number": on_image(lambda m, x: F.max_pool2d(m.a(x), 2) + 300),
    "times nothing": on_image(lambda m, x: m.a(x) + 0 * x),
    "reversed weighted sum": on_image(lambda m, x: m.a(x) * 2 - 3 * x),
    "number after a maximum": on_image(lambda m, x: 3 * F.max_pool2d(m.a(x), 2) - 1),
    "number at the input": on_image(lambda m, x: m.a((x - 0.4) / 0.3)),
    "sum over places": on_image(lambda m, x: m.a(x).sum((2, 3))),
    "sum over the last": on_rows(lambda m, x: m.a(x).sum(-1, keepdim=True)),
    "square": on_image(lambda m, x: m.a(x) ** 2),
    "own product": on_image(lambda m, x: m.a(x) * x),
    "maximum": on_image(lambda m, x: torch.maximum(m.a(x), x)),
    "minimum with broadcast": on_image(lambda m, x: torch.minimum(m.a(x), x.mean((2, 3), keepdim=True))),
    "where": on_image(lambda m, x: torch.where(x > 0.1, m.a(x), x)),
    "where with broadcast": on_image(lambda m, x: torch.where(x.mean(1, keepdim=True) > 0, m.a(x), x)),
    "masked": on_image(lambda m, x: m.a(x).masked_fill(m.k["c"] > 0, 0.5), k=constant(1, 1, 6, 5)),
    "gate": on_image(lambda m, x: m.a(x).chunk(2, 1)[0] * torch.sigmoid(m.a(x).chunk(2, 1)[1])),
    "unary": on_image(lambda m, x: torch.exp(m.a(x)).sqrt()),
    "prelu": on_image(lambda m, x: m.p(m.a(x)), p=nn.PReLU(4, 0.2)),
    "prelu with slopes on both sides": on_image(lambda m, x: m.p(m.a(x)), p=slopes(0.2, -0.5, 1.7, 1.0)),
    "prelu with large slopes": on_image(lambda m, x: m.p(m.a(x)), p=slopes(1.2, 2.5, 1.7, 1.0)),
    "prelu of a vector": (Call(lambda m, x: m.p(m.a(x)), a=nn.Linear(6, 4), p=nn.PReLU(4)), ((6,),)),
    "normalized": on_image(lambda m, x: F.normalize(m.a(x), dim=1)),
    "normalized rows": on_rows(lambda m, x: F.normalize(m.a(x), dim=-1)),
    "times channels": on_image(lambda m, x: F.max_pool2d(x, 1) * m.k["c"] + m.a(x), k=constant(4, 1, 1)),
    "plus rows": on_image(lambda m, x: F.max_pool2d(m.a(x), 2) + m.k["c"], k=constant(1, 3, 1)),
    "times columns": on_image(lambda m, x: F.max_pool2d(m.a(x), (1, 2)) / m.k["c"], k=constant(2)),
    "plus positions": on_rows(lambda m, x: m.a(x) + m.k["c"], k=constant(1, 5, 8)),
    "plus places": on_image(lambda m, x: m.b(m.a(x) + m.k["c"]), k=constant(1, 6, 5), b=conv()),
    "times all": on_image(lambda m, x: x * m.k["c"] - m.a(x), k=constant(4, 6, 5)),
    "minus outer axes": on_image(lambda m, x: m.k["c"] - F.relu(m.a(x)), k=constant(4, 1, 5)),
    "times the first of four": (
        Call(lambda m, x: F.relu(m.a(x)) * m.k["c"], a=nn.Linear(3, 4), k=constant(2, 1, 1, 1)),
        ((2, 3, 2, 3),),
    ),
    "class token": (
        Call(
            lambda m, x: m.a(torch.cat([m.k["c"].expand(x.shape[0], -1, -1), x], 1)),
            a=nn.Linear(6, 8),
            k=constant(1, 1, 6),
        ),
        ((5, 6),),
    ),
    "same twice": on_image(lambda m, x: torch.cat([m.a(x), m.a(x), x], 1)),
}

POOLS = {
    "average without padding counted": on_image(lambda m, x: F.avg_pool2d(m.a(x), 3, 1, 1, count_include_pad=False)),
    "average with ceiling": on_image(lambda m, x: F.avg_pool2d(m.a(x), 2, ceil_mode=True)),
    "average with ceiling and padding": on_image(lambda m, x: F.avg_pool2d(m.a(x), 3, 2, 1, ceil_mode=True)),
    "average strided without padding": on_image(lambda m, x: F.avg_pool2d(m.a(x), 3, 2, 1, count_include_pad=False)),
    "average of a large map": (
        Call(lambda m, x: F.avg_pool2d(m.a(x), 3, 1, 1, count_include_pad=False), a=shared()),
        ((4, 17, 15),),
    ),
    "average of a large map with ceiling": (
        Call(lambda m, x: F.avg_pool2d(m.a(x), 3, (2, 1), (1, 0), ceil_mode=True), a=shared()),
        ((4, 18, 25),),
    ),
    "average with a divisor": on_image(lambda m, x: F.avg_pool2d(m.a(x), 2, divisor_override=3)),
    "uneven adaptive": on_image(lambda m, x: F.adaptive_avg_pool2d(m.a(x), (4, 3))),
    "uneven adaptive with equal counts": on_image(lambda m, x: F.adaptive_avg_pool2d(m.a(x), (4, 5))),
    "uneven adaptive 1d": (Call(lambda m, x: F.adaptive_avg_pool1d(m.a(x), 4), a=nn.Conv1d(3, 5, 3)), ((3, 9),)),
    "average 1d without padding": (
        Call(lambda m, x: F.avg_pool1d(m.a(x), 3, 1, 1, count_include_pad=False), a=nn.Conv1d(3, 5, 3)),
        ((3, 9),),
    ),
    "average of volumes": (Call(lambda m, x: F.avg_pool3d(m.a(x), 2), a=nn.Linear(4, 4)), ((2, 4, 4, 4),)),
    "adaptive maximum": on_image(lambda m, x: F.adaptive_max_pool2d(m.a(x), (4, 2))),
    "global maximum": on_image(lambda m, x: m.a(x).amax((2, 3))),
    "maximum of channels": on_image(lambda m, x: m.a(x).amax(1, keepdim=True)),
    "maximum of volumes": (
        Call(lambda m, x: F.max_pool3d(m.a(x), 3, 2, 1), a=nn.Linear(4, 4)),
        ((2, 4, 5, 4),),
    ),
    "dilated padded maximum": on_image(lambda m, x: F.max_pool2d(m.a(x), (2, 3), (1, 2), 1, dilation=(3, 2))),
    "bilinear": on_image(lambda m, x: F.interpolate(m.a(x), scale_factor=2, mode="bilinear")),
    "bilinear corners": on_image(lambda m, x: F.interpolate(m.a(x), (9, 14), mode="bilinear", align_corners=True)),
    "bilinear smaller": on_image(lambda m, x: F.interpolate(m.a(x), (4, 3), mode="bilinear")),
    "bilinear by a scale": on_image(lambda m, x: F.interpolate(m.a(x), scale_factor=1.7, mode="bilinear")),
    "linear": (
        Call(lambda m, x: F.interpolate(m.a(x), scale_factor=2, mode="linear"), a=nn.Conv1d(3, 5, 3)),
        ((3, 9),),
    ),
    "mean of channels": on_image(lambda m, x: m.a(x).mean(1)),
    "mean of all": on_image(lambda m, x: m.a(x).mean((1, 2, 3))),
    "mean of five dimensions": (Call(lambda m, x: m.a(x).mean((2, 4)), a=nn.Linear(3, 4)), ((2, 2, 3, 2, 3),)),
}

LAYERS = {
    "transposed by 2": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 3, 2, stride=2)),
    "transposed 3 by 2": on_image(
        lambda m, x: F.relu(m.b(x)), b=nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)
    ),
    "transposed 4 by 2": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)),
    "transposed 5 by 3": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 3, 5, stride=3, padding=2)),
    "transposed and cropped": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 3, 3, stride=2, padding=(4, 5))),
    "transposed with two strides": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 3, 3, stride=(2, 1))),
    "transposed in groups": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)),
    "transposed depthwise": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4)),
    "transposed with dilation": on_image(lambda m, x: m.b(x), b=nn.ConvTranspose2d(4, 3, 3, dilation=2, stride=2)),
    "transposed 1d": (Call(lambda m, x: m.a(x), a=nn.ConvTranspose1d(3, 5, 4, stride=2, padding=1)), ((3, 9),)),
    "depthwise 1d": (Call(lambda m, x: m.b(m.a(x)), a=nn.Conv1d(3, 6, 3), b=nn.Conv1d(6, 6, 3, groups=6)), ((3, 9),)),
    "kernel of the whole": (Call(lambda m, x: m.a(x), a=conv(4, 6, (6, 5))), ((4, 6, 5),)),
    "product of matrices": on_rows(lambda m, x: m.a(x) @ m.b(x).transpose(1, 2) / 3, b=nn.Linear(6, 8)),
    "product with broadcast": (
        Call(lambda m, x, y: m.a(x) @ m.b(y)[:, None], a=nn.Linear(6, 8), b=nn.Linear(3, 5)),
        ((2, 3, 6), (8, 3)),
    ),
    "linear of one value": (Call(lambda m, x: m.b(m.a(x)), a=nn.Linear(1, 1), b=nn.Linear(1, 1)), ((1,),)),
    "linear of images": on_image(lambda m, x: m.b(m.a(x)), b=nn.Linear(5, 7)),
}

ENDINGS = {
    "softmax": on_rows(lambda m, x: torch.softmax(m.a(x), -1)),
    "softmax of channels": on_image(lambda m, x: torch.softmax(m.a(x), 1)),
    "softmax of rows": on_image(lambda m, x: torch.softmax(m.a(x), 2)),
    "log softmax": on_image(lambda m, x: torch.log_softmax(m.a(x), 1)),
    "sigmoid": on_image(lambda m, x: torch.sigmoid(m.a(x))),
    "logits and softmax": on_rows(lambda m, x: ((y := m.a(x)), torch.softmax(y, -1))),
}

SEVERAL = {
    "two of each": (
        Call(lambda m, x, y: {"s": m.a(x) + y, "t": [m.b(y), y]}, a=nn.Linear(6, 4), b=nn.Linear(4, 3)),
        ((6,), (4,)),
    ),
    "the same twice": on_image(lambda m, x: ((y := m.a(x)), y, y.flatten(1))),
    "an input as it is": on_image(lambda m, x: (x, m.a(x))),
    "an input turned": on_image(lambda m, x: (x.transpose(1, 3), m.a(x))),
    "rows and examples": (
        Call(lambda m, x, y: frames(m, x) + m.b(y)[:, None], a=shared(o=2), b=nn.Linear(3, 50)),
        ((3, 4, 5, 5), (3,)),
    ),
    "an unread input": (Call(lambda m, x, y: m.a(x), a=nn.Linear(6, 4)), ((6,), (4,))),
}

NETWORKS = {**MOVES, **ARITHMETIC, **POOLS, **LAYERS, **ENDINGS, **SEVERAL}

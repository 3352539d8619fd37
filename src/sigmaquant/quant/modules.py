"""Quantized modules: the stock layers with a `WeightQuantizer`, and the `ActivationQuantizer` between them.

Subclasses keep the ``weight`` key, so float checkpoints load. Bitwidths are plain mutable attributes that the plan
sets; scales are parameters that training learns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmaquant.errors import DataError
from sigmaquant.numerics import (
    SCALE_FLOOR,
    activation_range,
    fake_quantize_activation,
    fake_quantize_weight,
    mse_weight_scales,
    quantize_weight,
)
from sigmaquant.plan import check_bitwidth
from sigmaquant.quant.nesting import LevelGrid, fake_quantize_nested


class WeightQuantizer(nn.Module):
    """Fake-quantizes one weight, per channel, with learned scales.

    Attributes:
        bits: current bitwidth, or None for float.
        midrise: which grid, see `sigmaquant.numerics`.
        axis: the weight's channel axis.
        scale: [C] parameter.
        widest: the quantizer of the widest of several plans that train one weight together, whose planes this one
            reads; empty: this is the only one. A tuple, so that it is no part of this module.
        narrowed: whether a plan reads fewer planes than the widest.
    """

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.widest: tuple[WeightQuantizer, ...] = ()
        self.narrowed = False
        self.bits: int | None = None
        self.midrise = False
        self.axis = axis
        self.scale = nn.Parameter(torch.ones(channels))

    def set_bits_(self, bits: int, weight: Tensor, midrise: bool = False) -> None:
        """Change the grid; the scales start anew at the MSE optimum, the float weight stays as it is."""
        self.bits, self.midrise = check_bitwidth(bits, "weight"), midrise
        with torch.no_grad():
            self.scale.copy_(mse_weight_scales(weight, bits, self.axis, midrise=midrise))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its grid, of `weight`'s shape."""
        if self.bits is None:
            return weight
        if self.widest:
            return self._nested(weight, self.scale)
        return fake_quantize_weight(weight, self.scale, self.bits, self.axis, self.midrise)

    def codes(self, weight: Tensor) -> Tensor:
        """Integer codes, int8; the network must be quantized."""
        assert self.bits is not None, "a float weight has no codes"
        if self.widest:
            return self._nested(weight.detach(), torch.ones_like(self.scale)).to(torch.int8)
        return quantize_weight(weight, self.scale, self.bits, self.axis, self.midrise)

    def _nested(self, weight: Tensor, scale: Tensor) -> Tensor:
        (widest,) = self.widest
        assert widest.bits is not None, "quantized"
        assert self.bits is not None, "quantized"
        wide = LevelGrid(widest.bits, zero=not self.narrowed)
        own = wide if widest is self else LevelGrid(self.bits, zero=not self.narrowed)
        return fake_quantize_nested(weight, scale, widest.scale, wide, own, self.axis)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"bits={self.bits}, midrise={self.midrise}, channels={self.scale.numel()}"


class ActivationQuantizer(nn.Module):
    """Fake-quantizes one activation, per tensor, affine, with a learned scale and a fixed zero-point.

    Attributes:
        bits: current bitwidth.
        enabled: False passes the activation through (before calibration).
        scale: [1] parameter.
        zero_point: integer code of 0.0.
        observer: while set, sees every activation and nothing is quantized.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = check_bitwidth(bits, "activation")
        self.enabled = False
        self.scale = nn.Parameter(torch.ones(1))
        self.zero_point = 0
        self.observer: Any = None

    def set_grid_(self, scale: float, zero_point: int, bits: int) -> None:
        """Fix the grid and switch quantization on."""
        qmin, qmax = activation_range(bits)
        assert qmin <= zero_point <= qmax, "zero must be on the grid"
        self.bits, self.zero_point, self.enabled = bits, zero_point, True
        with torch.no_grad():
            self.scale.fill_(max(scale, SCALE_FLOOR))

    def forward(self, x: Tensor) -> Tensor:
        """The activation on its grid, of `x`'s shape."""
        if self.observer is not None:
            self.observer(x)
            return x
        if not self.enabled:
            return x
        return fake_quantize_activation(x, self.scale, self.zero_point, self.bits)

    def get_extra_state(self) -> Tensor:
        """What the plan and the scale do not hold: enabled, zero-point and bits, int32 [3]."""
        return torch.tensor([int(self.enabled), self.zero_point, self.bits], dtype=torch.int32)

    def set_extra_state(self, state: Tensor) -> None:
        """Inverse of `get_extra_state`."""
        enabled, self.zero_point, self.bits = (int(v) for v in state)
        self.enabled = bool(enabled)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"bits={self.bits}, enabled={self.enabled}, zero_point={self.zero_point}"


class _Quantized(nn.Module):
    """What all quantized layers share: the quantizer and the way they come from a float layer."""

    weight: Tensor
    bias: Tensor | None
    weight_quantizer: WeightQuantizer

    @property
    def quantized_weight(self) -> Tensor:
        """The weight on its grid."""
        result: Tensor = self.weight_quantizer(self.weight)
        return result


class QConv1d(_Quantized, nn.Conv1d):
    """`nn.Conv1d` with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv1d`."""
        result: Tensor = self._conv_forward(x, self.quantized_weight, self.bias)
        return result


class QConv2d(_Quantized, nn.Conv2d):
    """`nn.Conv2d` with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        result: Tensor = self._conv_forward(x, self.quantized_weight, self.bias)
        return result


class QConv3d(_Quantized, nn.Conv3d):
    """`nn.Conv3d` with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv3d`."""
        result: Tensor = self._conv_forward(x, self.quantized_weight, self.bias)
        return result


class _QConvTranspose(_Quantized):
    def forward(self, x: Tensor) -> Tensor:
        """As the stock module, without `output_size`: the exported graph has it resolved into `output_padding`."""
        function = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[self.weight.dim()]
        module: Any = self
        result: Tensor = function(
            x,
            self.quantized_weight,
            self.bias,
            module.stride,
            module.padding,
            module.output_padding,
            module.groups,
            module.dilation,
        )
        return result


class QConvTranspose1d(_QConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]
    """`nn.ConvTranspose1d` with a quantized weight."""


class QConvTranspose2d(_QConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]
    """`nn.ConvTranspose2d` with a quantized weight."""


class QConvTranspose3d(_QConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]
    """`nn.ConvTranspose3d` with a quantized weight."""


class QLinear(_Quantized, nn.Linear):  # type: ignore[misc]
    """`nn.Linear` with a quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return F.linear(x, self.quantized_weight, self.bias)


class QEmbedding(_Quantized, nn.Embedding):
    """`nn.Embedding` with a quantized table, one scale per row."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Embedding`, for integer indices.

        Raises:
            DataError: an index that no row has.
        """
        # sparse gradients end at the quantizer, which needs dense ones
        try:
            return F.embedding(
                x, self.quantized_weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq, sparse=False
            )
        except IndexError:
            low, high = (int(end) for end in torch.aminmax(x))
            raise DataError(
                f"an embedding of {self.num_embeddings} rows was given the indices {low}..{high}. Check the tokenizer, "
                "or how the data are encoded."
            ) from None


class QParameter(_Quantized):
    """A functional weight (attention projection, recurrent matrix): called without input, returns the weight."""

    def forward(self) -> Tensor:
        """The weight on its grid."""
        return self.quantized_weight


QUANTIZED_CLASSES: dict[type[nn.Module], type[_Quantized]] = {
    nn.Conv1d: QConv1d,
    nn.Conv2d: QConv2d,
    nn.Conv3d: QConv3d,
    nn.ConvTranspose1d: QConvTranspose1d,
    nn.ConvTranspose2d: QConvTranspose2d,
    nn.ConvTranspose3d: QConvTranspose3d,
    nn.Linear: QLinear,
    nn.Embedding: QEmbedding,
}
"""Quantized class of each stock class and of its subclasses, which the graph admits only where they compute alike."""


def quantized_from_float(module: nn.Module, quantizer: WeightQuantizer) -> nn.Module:
    """The quantized twin of a float layer, with the very same parameters.

    The instance's dictionary is copied rather than the constructor called, so that every attribute of whichever torch
    version is kept and no second weight is ever allocated.
    """
    kinds = (quantized for stock, quantized in QUANTIZED_CLASSES.items() if isinstance(module, stock))
    cls = next(kinds, QParameter)  # anything else holds a functional weight
    twin: nn.Module = cls.__new__(cls)
    twin.__dict__.update(module.__dict__)
    for table in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[table] = module.__dict__[table].copy()
    twin.add_module("weight_quantizer", quantizer)
    return twin

"""A recurrent layer on the grids that its integers have, so that what is trained is what runs on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import operator
from sigmaquant.numerics import fake_quantize_activation
from sigmaquant.operators.recurrent import (
    GATE_BITS,
    GATES,
    LARGEST_STATE,
    LEAST_STATE,
    UNIT_BITS,
    Call,
    Kind,
    gate_table,
    recurrent_call,
)
from sigmaquant.quant.modules import ActivationQuantizer

_GATE, _LOWEST, _HIGHEST = 2.0**GATE_BITS, -(2.0**UNIT_BITS), 2.0**UNIT_BITS - 1


class _Rounded(torch.autograd.Function):
    """To a unit and into 16 bits; the gradient passes where nothing is clipped."""

    @staticmethod
    def forward(ctx, x: Tensor, unit: float) -> Tensor:  # type: ignore[no-untyped-def]
        ratio = x / unit
        ctx.save_for_backward((ratio >= _LOWEST) & (ratio <= _HIGHEST))
        return ratio.round_().clamp_(_LOWEST, _HIGHEST).mul_(unit)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (inside,) = ctx.saved_tensors
        return grad * inside, None


class _OfGate(torch.autograd.Function):
    """Sigmoids and hyperbolic tangents of gates' 16 bits, from the integers' tables."""

    @staticmethod
    def forward(ctx, x: Tensor, tables: Tensor, sigmoid: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """Values of `x`'s shape.

        Args:
            ctx: of autograd.
            x: gates.
            tables: of sigmoid, then of the tangent.
            sigmoid: 1 where the function of a gate is the sigmoid, else 0; broadcasts.
        """
        codes = (x * _GATE).round_().clamp_(_LOWEST, _HIGHEST).sub_(_LOWEST).to(torch.int64)
        y = tables[codes.add_((1 - sigmoid).to(torch.int64) << 16)]
        ctx.save_for_backward(y, sigmoid)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        y, sigmoid = ctx.saved_tensors
        # y (1 - y), or 1 - y y
        return grad * (1 - sigmoid + sigmoid * y - y * y), None, None


class QRecurrent(nn.Module):
    """A recurrent layer of one direction, batch first, whose hidden states lie on the grid of its output's quantizer.

    The outputs are those before that quantizer's rounding. Before calibration it computes in float.

    Attributes:
        kind: of layer.
        state_bits: the state that goes from step to step reaches ``2**state_bits``; set by calibration.
    """

    def __init__(self, kind: Kind, grid: ActivationQuantizer) -> None:
        super().__init__()
        self.kind = kind
        self.state_bits = LEAST_STATE[kind]
        self._grid = (grid,)  # it belongs to the network, not to this layer
        self._seen: Any = None
        self._largest = 0.0
        self._tables: dict[torch.device, Tensor] = {}

    @property
    def grid(self) -> ActivationQuantizer:
        """The quantizer of the hidden states."""
        return self._grid[0]

    def forward(
        self, x: Tensor, states: Sequence[Tensor | None], weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Outputs [N, T, units], and the states after the last step, [1, N, units].

        Args:
            x: [N, T, inputs].
            states: [1, N, units] each; None: zeros.
            weights: of input and hidden state.
            biases: of these, or none.
        """
        with torch.autocast(x.device.type, enabled=False):  # 16 bits of a gate are more than bfloat16 has
            states = tuple(None if s is None else s.float() for s in states)
            return self._run(x.float(), states, [w.float() for w in weights], biases)

    def _run(
        self, x: Tensor, states: Sequence[Tensor | None], weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        units = weights[1].shape[1]
        zeros = x.new_zeros(len(x), units)
        start = [zeros if s is None else s.reshape(-1, units).expand(len(x), units) for s in states]
        observed = self.grid.observer is not None
        real = observed or not self.grid.enabled
        first, second = biases or (None, None)
        whole = F.linear(x, weights[0], first)
        hidden, state = start[0], self._state(start[-1], real)
        step: Callable[..., tuple[Tensor, Tensor]] = getattr(self, f"_{self.kind}")
        outputs, largest = [], state.detach().abs().max() if observed else None
        for sums in whole.unbind(1):
            hidden = self._on_grid(hidden, real)
            hidden, state = step(sums, F.linear(hidden, weights[1], second), state, real)
            outputs.append(hidden)
            if largest is not None:
                largest = torch.maximum(largest, state.detach().abs().max())
        if largest is not None:
            self._observe(float(largest))
        finals = (hidden, state)[: len(states)]
        return torch.stack(outputs, 1), *(final[None] for final in finals)

    def _on_grid(self, hidden: Tensor, real: bool) -> Tensor:
        grid = self.grid
        return hidden if real else fake_quantize_activation(hidden, grid.scale, grid.zero_point, grid.bits)

    def _state(self, state: Tensor, real: bool) -> Tensor:
        if real or self.kind.startswith("rnn"):
            return state
        result: Tensor = _Rounded.apply(state, 2.0 ** (self.state_bits - UNIT_BITS))  # type: ignore[no-untyped-call]
        return result

    def _observe(self, largest: float) -> None:
        """Find the power of two that holds the states of all batches of a calibration."""
        if self.grid.observer is not self._seen:
            self._seen, self._largest = self.grid.observer, 0.0
        self._largest = max(self._largest, largest)
        reach = self._largest * (1 + 2.0**-UNIT_BITS)
        bits = math.ceil(math.log2(reach)) if 0 < reach < math.inf else 0
        self.state_bits = min(max(bits, LEAST_STATE[self.kind]), LARGEST_STATE)

    # -- steps: what they compute, and the state that goes on --------------------------------------------------------

    def _functions(self, x: Tensor, sigmoid: Sequence[int], real: bool) -> tuple[Tensor, ...]:
        """Of equal parts of the last axis: sigmoids where `sigmoid` has 1, else hyperbolic tangents."""
        if real:
            parts = x.chunk(len(sigmoid), -1)
            return tuple(torch.sigmoid(p) if s else torch.tanh(p) for p, s in zip(parts, sigmoid, strict=True))
        if x.device not in self._tables:
            both = torch.cat([gate_table("sigmoid"), gate_table("tanh")])
            self._tables[x.device] = both.to(x.device, torch.float32) * 2.0**-UNIT_BITS
        which = torch.tensor(sigmoid, dtype=torch.float32, device=x.device)
        which = which.repeat_interleave(x.shape[-1] // len(sigmoid))
        result: Tensor = _OfGate.apply(x, self._tables[x.device], which)  # type: ignore[no-untyped-call]
        return result.chunk(len(sigmoid), -1)

    def _lstm(self, x: Tensor, h: Tensor, cell: Tensor, real: bool) -> tuple[Tensor, Tensor]:
        i, f, g, o = self._functions(x + h, (1, 1, 0, 1), real)
        cell = self._state(f * cell + i * g, real)
        return o * self._functions(cell, (0,), real)[0], cell

    def _gru(self, x: Tensor, h: Tensor, state: Tensor, real: bool) -> tuple[Tensor, Tensor]:
        units = state.shape[-1]
        r, z = self._functions(x[:, : 2 * units] + h[:, : 2 * units], (1, 1), real)
        (n,) = self._functions(x[:, 2 * units :] + r * h[:, 2 * units :], (0,), real)
        state = self._state((1 - z) * n + z * state, real)
        return state, state

    def _rnn_tanh(self, x: Tensor, h: Tensor, state: Tensor, real: bool) -> tuple[Tensor, Tensor]:
        return self._functions(x + h, (0,), real)[0], state

    def _rnn_relu(self, x: Tensor, h: Tensor, state: Tensor, real: bool) -> tuple[Tensor, Tensor]:
        return torch.relu(x + h), state

    # -- state of a checkpoint ---------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The bits of the state: int32 [1]."""
        return torch.tensor([self.state_bits], dtype=torch.int32)

    def set_extra_state(self, state: Tensor) -> None:
        """Inverse of `get_extra_state`."""
        self.state_bits = min(max(int(state[0]), LEAST_STATE[self.kind]), LARGEST_STATE)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"{self.kind}, state_bits={self.state_bits}"


def install_recurrent_(graph: fx.Graph, owner: nn.Module, table: str) -> None:
    """Replace each recurrent operator whose outputs a quantizer follows by a call of a `QRecurrent`.

    Args:
        graph: with quantizers.
        owner: holds the modules that it calls.
        table: name of the owner's module that holds the new ones.
    """
    made = nn.ModuleDict()
    for node in list(graph.nodes):
        call = recurrent_call(node) if operator(node) in GATES else None
        grid = None if call is None else _grid(call, owner)
        if call is None or grid is None:
            continue
        key = f"layer_{len(made)}"
        made[key] = QRecurrent(call.kind, grid)
        if len(made) == 1:
            owner.add_module(table, made)
        with graph.inserting_before(node):
            args = (call.source, call.states, call.weights, call.biases)
            new = graph.create_node("call_module", f"{table}.{key}", args)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _grid(call: Call, owner: nn.Module) -> ActivationQuantizer | None:
    """The quantizer that follows the outputs; None where there is none."""
    for user in call.node.users:
        if operator(user) == "getitem" and user.args[1] == 0:
            for reader in user.users:
                module = owner.get_submodule(str(reader.target)) if reader.op == "call_module" else None
                if isinstance(module, ActivationQuantizer):
                    return module
    return None

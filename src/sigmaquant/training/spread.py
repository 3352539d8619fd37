"""A training step in several processes: each computes a part of the batch, all make the same step.

The loss is that of the whole batch: the outputs of all parts are gathered before it, so that it may be any function of
them. BatchNorm normalises by the whole batch, and the gradients are added up. What differs from one process is the
order of sums, and what a network draws by itself, such as dropout.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sigmaquant.numerics import part_of_batch, raw_bytes
from sigmaquant.parallel import rank, same_everywhere, share_tensors_, sum_tensors_, world_size
from sigmaquant.quant import QuantizedNetwork, batch_norms
from sigmaquant.tasks import Outputs, map_outputs


class Spread:
    """The part of each batch that this process computes; with one process, all of it. A context manager.

    Args:
        networks: that are trained; every process begins with the first one's weights.
        parameters: that the optimizer moves.
    """

    def __init__(self, networks: Sequence[QuantizedNetwork], parameters: Sequence[nn.Parameter]) -> None:
        self._networks, self._parameters = networks, parameters
        self._sizes: list[int] = []
        self._stack = contextlib.ExitStack()
        self._part = contextlib.ExitStack()
        self._compared = False

    def __enter__(self) -> Spread:
        if world_size() > 1:
            for network in self._networks:
                same_everywhere(None if network.plan is None else network.plan.to_json(), "plans")
                share_tensors_(network.state().values())
                for norm in batch_norms(network).values():
                    norm.forward = _Synchronised(norm, self)
                    self._stack.callback(norm.__dict__.pop, "forward", None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.close()
        self._stack.close()

    @property
    def splits(self) -> bool:
        """Whether the present batch is split; one with fewer examples than processes is computed in each."""
        return len(self._sizes) > 1

    def own(self, inputs: Any, targets: Tensor) -> Any:
        """The inputs of the examples that this process computes, until the next call.

        Raises:
            DistributedError: the processes have different batches.
        """
        self._part.close()
        count, processes = len(targets), world_size()
        self._sizes = []
        if processes == 1:
            return inputs
        if not self._compared:  # of the first batch: what is not seeded differs at once
            same_everywhere((_digest(inputs), _digest(targets)), "training batches")
            self._compared = True
        if count < processes:
            return inputs
        self._sizes = [count // processes + (number < count % processes) for number in range(processes)]
        start, size = sum(self._sizes[: rank()]), self._sizes[rank()]
        self._part.enter_context(part_of_batch(start, size, count))
        cut = slice(start, start + size)
        return type(inputs)(x[cut] for x in inputs) if isinstance(inputs, tuple | list) else inputs[cut]

    def whole(self, outputs: Outputs) -> Outputs:
        """The outputs of the whole batch; gradients reach those of this process."""
        return map_outputs(self._gathered, outputs) if self.splits else outputs

    def _gathered(self, x: Tensor) -> Tensor:
        largest = max(self._sizes)
        padded = x.new_zeros((largest, *x.shape[1:]))
        padded[: len(x)] = x.detach()
        found = [torch.empty_like(padded) for _ in self._sizes]
        dist.all_gather(found, padded)
        return torch.cat(
            [x if n == rank() else y[:size] for n, (y, size) in enumerate(zip(found, self._sizes, strict=True))]
        )

    def add_gradients_(self) -> None:
        """Make every parameter's gradient that of the whole batch; one that no process has stays without."""
        if world_size() == 1:
            return
        device = self._parameters[0].device
        has = torch.tensor([float(p.grad is not None) for p in self._parameters], device=device)
        sum_tensors_([has])
        gradients = []
        for parameter, number in zip(self._parameters, has.tolist(), strict=True):
            if number:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        sum_tensors_(gradients)
        if not self.splits:  # each has computed all of it
            torch._foreach_div_(gradients, world_size())


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for x in value if isinstance(value, tuple | list) else (value,):
        digest.update(raw_bytes(torch.as_tensor(x)))
    return digest.hexdigest()


class _Sum(torch.autograd.Function):
    """Sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class _Synchronised:
    """BatchNorm by the statistics of the batch's parts in all processes.

    `torch.nn.SyncBatchNorm` refuses tensors on a CPU; this one runs on every device.
    """

    def __init__(self, norm: Any, spread: Spread) -> None:
        self._norm, self._spread = norm, spread

    def __call__(self, x: Tensor) -> Tensor:
        norm = self._norm
        if not (norm.training and self._spread.splits):
            result: Tensor = type(norm).forward(norm, x)
            return result
        norm._check_input_dim(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        values = x.float()
        count = _summed(values.new_tensor(float(x.numel() // x.shape[1])))
        mean = _summed(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1).clamp_min(1)))
        y = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            y = y * norm.weight.view(shape) + norm.bias.view(shape)
        synchronised: Tensor = y.to(x.dtype)
        return synchronised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        norm = self._norm
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance, momentum)

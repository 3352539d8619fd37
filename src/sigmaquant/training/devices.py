"""Where and in which precision training runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.errors import SigmaQuantError


@dataclass(frozen=True)
class Device:
    """A torch device and whether training runs in bf16 autocast there.

    Attributes:
        name: such as ``"cpu"`` or ``"cuda:0"``.
        bf16: autocast to bfloat16 in training; evaluation and calibration are always float32.
        channels_last: memory format of 4-d tensors.
    """

    name: str
    bf16: bool
    channels_last: bool = True

    def put(self, value: Any) -> Any:
        """A tensor, or a tuple or list of tensors, on the device in its memory format."""
        if isinstance(value, tuple | list):
            return type(value)(self.put(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.name, non_blocking=True)
        if self.channels_last and value.dim() == 4 and value.is_floating_point():
            return value.contiguous(memory_format=torch.channels_last)
        return value

    def put_module(self, module: nn.Module) -> nn.Module:
        """Move a module, in place."""
        module.to(self.name)
        if self.channels_last:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.dim() == 4:  # Module.to(memory_format=...) refuses modules that also hold a 5-d kernel
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return module

    @contextmanager
    def random_state(self, seed: int) -> Iterator[None]:
        """While active, PyTorch's random numbers begin at `seed`; afterwards they go on as if nothing had been drawn.

        A network may draw some in evaluation, too. It is then a function of its inputs all the same, whenever it runs.
        """
        used = torch.device(self.name)
        with torch.random.fork_rng([used] if used.type == "cuda" else []):
            self.seed(seed)
            yield

    def seed(self, seed: int) -> None:
        """Let PyTorch's random numbers on the CPU and on this device begin at `seed`, and no other device's."""
        torch.default_generator.manual_seed(seed)
        if torch.device(self.name).type == "cuda":
            with torch.cuda.device(self.name):
                torch.cuda.manual_seed(seed)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 autocast where it is faster."""
        with torch.autocast(torch.device(self.name).type, torch.bfloat16, enabled=self.bf16):
            yield


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulation is ten times slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


def default_device() -> str:
    """CUDA where it is present, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(name: str = "auto", bf16: bool | None = None) -> Device:
    """The device to train on: CUDA when present, else the CPU; bf16 where the hardware has it, unless told.

    Raises:
        SigmaQuantError: the device does not exist.
    """
    if name == "auto":
        name = default_device()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SigmaQuantError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0].rstrip('.')}. Use device='cpu'."
        ) from None
    if bf16 is None:
        kind = torch.device(name).type
        bf16 = cpu_has_bf16() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported()
    return Device(name, bf16)

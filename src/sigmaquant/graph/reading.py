"""What is read of a user's model: its own modules, without wrappers of `torch.compile` or weight norm, in float32."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.weight_norm import WeightNorm

from sigmaquant.errors import ModelError
from sigmaquant.graph.copying import copied

_WRAPPED = "_orig_mod"  # where the wrapper of `torch.compile` keeps the module


def readable(model: nn.Module) -> nn.Module:
    """The model as the program reads it: the user's very module where nothing has to change, else `read_copy` of it.

    Raises:
        ModelError: see `check_readable`.
    """
    check_readable(model)
    plain = _unwrapped(model)
    changed = any(_unwrapped(module) is not module or _normed_weights(module) for module in plain.modules())
    return read_copy(plain) if changed or precision_note(plain) else plain


def read_copy(model: nn.Module) -> nn.Module:
    """A copy under the names that the user wrote, whose parameters and buffers are float32 where they are floating.

    A model with float32 parameters keeps every buffer as it is. Weights under weight norm are parameters with
    the values that they have now.

    Raises:
        ModelError: see `check_readable`.
    """
    check_readable(model)
    twin = _unwrapped(copied(model))
    for module in twin.modules():
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _unwrapped(child)
    for module in twin.modules():
        for name, old in _normed_weights(module):
            if old:
                nn.utils.remove_weight_norm(module, name)
            else:  # not by torch's function: it changes the class, which the user's module has too
                value = getattr(module, name).detach().clone()
                module.__class__ = type(module).__bases__[0]
                del module._modules["parametrizations"]
                module.register_parameter(name, nn.Parameter(value))
    return twin.float() if precision_note(twin) else twin


def precision_note(model: nn.Module) -> str | None:
    """What to tell the user about a model whose parameters are not all float32; None where they are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            return (
                f"the network was read as float32, because its parameter {_own_name(name)!r} is {kind}; "
                "floating inputs are given to it as float32"
            )
    return None


def check_readable(model: object) -> None:
    """Raise for what holds no modules or weights that can be read.

    Raises:
        ModelError: no module, a TorchScript module, or a lazy module that has never run.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}, not a torch.nn.Module.")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and (not name or any(True for _ in module.parameters())):
            what = f"the model's module {_own_name(name)!r}" if name else "the model"
            raise ModelError(
                f"{what} is TorchScript ({type(module).__name__}), whose Python modules are gone. Pass the module that "
                "was given to torch.jit.trace or torch.jit.script: build it from its class and load the weights with "
                "model.load_state_dict(scripted.state_dict())."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                f"{_own_name(name)!r} has no values: it is on the meta device. Make the model on the CPU, or give it "
                "memory with model.to_empty(device='cpu'), and load its weights."
            )
        if is_lazy(tensor):
            raise ModelError(
                f"{_own_name(name)!r} has no shape yet: it belongs to a lazy module that has never run. Run the model "
                "once on an example, model(inputs), and train it or load its weights, before it is quantized."
            )


def _normed_weights(module: nn.Module) -> list[tuple[str, bool]]:
    """Parameters that weight norm computes from others, and whether by torch's old hook."""
    found = [(hook.name, True) for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
    chains = getattr(module, "parametrizations", {})
    for name, chain in chains.items() if len(chains) == 1 else ():
        if len(chain) == 1 and type(chain[0]).__name__ == "_WeightNorm":
            found.append((name, False))
    return found


def _unwrapped(module: nn.Module) -> nn.Module:
    # the wrapper's class by its name, since importing it imports a compiler
    while type(module).__name__ == "OptimizedModule" and (inner := module._modules.get(_WRAPPED)) is not None:
        module = inner
    return module


def _own_name(name: str) -> str:
    return name.replace(f"{_WRAPPED}.", "")

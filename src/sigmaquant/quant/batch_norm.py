"""BatchNorm statistics of a quantized network: re-estimation, and what makes few examples enough for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.errors import DataError
from sigmaquant.graph.copying import copied
from sigmaquant.quant.network import QuantizedNetwork


@torch.no_grad()
def reestimate_batch_norm_(network: nn.Module, batches: Iterable[Any]) -> None:
    """Replace every BatchNorm's running statistics by the mean over the batches, with everything else as it is.

    A batch counts by its examples: a last one of two has variances that are worth little. Of a module that is called
    several times in a network, every call counts.

    Quantized weights shift the statistics of what follows; re-estimation costs forward passes only (Peters et al. 2018;
    Sun et al., NeurIPS 2019).

    Raises:
        DataError: no batches, or some without a variance; the statistics are as they were, as after any other error.
    """
    norms = list(batch_norms(network).values())
    if not norms:
        return
    training, momenta = network.training, [norm.momentum for norm in norms]
    kept = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in norms]
    network.eval()
    weigh = _ByExamples()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    hooks = [norm.register_forward_pre_hook(weigh) for norm in norms]
    seen = False
    try:
        for inputs in batches:
            given = inputs if isinstance(inputs, tuple | list) else (inputs,)
            try:
                network(*given)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError(
                    "a batch of a single example has no variance, which BatchNorm needs in training. Give batches of "
                    "two examples or more (batch_size)."
                ) from error
            seen = True
        if not seen:
            raise DataError("BatchNorm statistics need at least one batch of training data, there was none.")
    except BaseException:
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            norm.momentum = momentum
            hook.remove()
        network.train(training)


class _ByExamples:
    """Before each call of a BatchNorm in training, the momentum that makes its statistics a mean over the examples."""

    def __init__(self) -> None:
        self._seen: dict[nn.Module, int] = defaultdict(int)

    def __call__(self, norm: Any, inputs: tuple[Tensor, ...]) -> None:
        count = len(inputs[0])
        self._seen[norm] += count
        norm.momentum = count / self._seen[norm]


class SamplingError:
    """How far BatchNorm statistics from given batches are off because these batches, and no others, were looked at.

    The float network shows it on the same batches: there nothing but the choice of examples and their augmentation
    moves the statistics away from those that it was trained with. Taken out of a quantized network's re-estimated
    statistics it leaves what quantization changed (a control variate: Hammersley and Handscomb, Monte Carlo Methods,
    1964, chapter 5). The weights of both must be the same but for their rounding.

    Args:
        network: names the float network, which is copied for a while and not changed.
        batches: inputs only, each a tensor or a tuple of tensors, on the network's device.

    Raises:
        DataError: as `reestimate_batch_norm_`.
    """

    @torch.no_grad()
    def __init__(self, network: QuantizedNetwork, batches: Iterable[Any]) -> None:
        trained = batch_norms(network.graph.module)
        self._corrections: dict[str, tuple[Tensor, Tensor]] = {}
        if not trained:
            return
        device = next(network.parameters()).device
        twin = copied(network.graph.module).to(device)
        reestimate_batch_norm_(twin, batches)
        seen = batch_norms(twin)
        for name, norm in trained.items():
            shift = norm.running_mean.to(device) - seen[name].running_mean
            factor = (norm.running_var.to(device) + norm.eps) / (seen[name].running_var + norm.eps)
            self._corrections[name] = shift, factor

    @torch.no_grad()
    def remove_(self, network: QuantizedNetwork) -> None:
        """Correct statistics that `reestimate_batch_norm_` found on the same batches."""
        norms = batch_norms(network.body)
        for name, (shift, factor) in self._corrections.items():
            norms[name].running_mean.add_(shift)
            variance, eps = norms[name].running_var, norms[name].eps
            variance.add_(eps).mul_(factor).sub_(eps).clamp_min_(0)


def batch_norms(module: nn.Module) -> dict[str, Any]:
    """The BatchNorm modules with running statistics, by name."""
    found = module.named_modules()
    return {n: m for n, m in found if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats}

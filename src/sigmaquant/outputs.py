"""Which of a network's outputs counts, and what it means.

Class logits are compared as distributions, values by their squares.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.utils._pytree as pytree
from torch import Tensor

from sigmaquant.errors import DataError

OutputKind = Literal["auto", "logits", "values"]


def scored_tensor(output: Any) -> Tensor:
    """The tensor that losses, metrics and sensitivities see: the output itself, its ``logits``, or its first element.

    Raises:
        DataError: none of these.
    """
    if isinstance(output, Tensor):
        found: Any = output
    elif isinstance(output, dict):
        found = output.get("logits")
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        found = output[0] if output else None
    else:
        found = getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise DataError(
            f"the model returns {type(output).__name__}; a tensor, a mapping with 'logits' or a tuple is needed. "
            "Wrap the model so that it returns the tensor to be scored."
        )
    if found.dim() == 0:
        raise DataError(
            "the model returns a single number for a whole batch, such as a loss. Wrap the model so that it returns "
            "the tensor to be scored, with a row for each example."
        )
    return found


def outputs_note(returned: Any) -> str | None:
    """What to tell the user about a network that returns more than `scored_tensor` takes; None where it does not.

    Args:
        returned: what the network returns, or a graph's nodes in the same containers.
    """
    count = len(pytree.tree_leaves(returned))
    if count < 2:
        return None
    named = isinstance(returned, dict) or hasattr(returned, "logits")
    which = "'logits'" if named else "the first"
    return (
        f"of the network's {count} outputs only {which} is scored, compared and trained; a task says so if others "
        "count (`task=`, --task)"
    )


def are_logits(outputs: Tensor, kind: OutputKind = "auto") -> bool:
    """Whether outputs are class logits [N, C] or plain values.

    Args:
        outputs: [N, ...].
        kind: ``"auto"`` takes two dimensions with more than one class for logits: all that shapes tell.

    Raises:
        DataError: an unknown kind, or logits that are not two-dimensional.
    """
    if kind not in get_args(OutputKind):
        raise DataError(f"outputs cannot be {kind!r}. Choose one of {', '.join(get_args(OutputKind))}.")
    if kind == "logits" and outputs.dim() != 2:
        raise DataError(f"outputs of shape {tuple(outputs.shape)} are no class logits [N, C].")
    return kind != "values" and outputs.dim() == 2 and (kind == "logits" or outputs.shape[1] > 1)


def output_kind(outputs: Tensor, targets: Tensor | None, kind: OutputKind = "auto") -> Literal["logits", "values"]:
    """What outputs are; ``"auto"``: targets that are values to be hit are no classes, and logits have a class each.

    Args:
        outputs: [N, ...].
        targets: what belongs to them; integers [N] are classes. None: not known, so that the outputs' shape decides.
        kind: what is known already.

    Raises:
        DataError: as `are_logits`.

    Example:
        >>> import torch
        >>> classes, values = torch.tensor([2, 0, 1, 1]), torch.zeros(4, 3)
        >>> output_kind(torch.zeros(4, 3), classes), output_kind(torch.zeros(4, 3), values)
        ('logits', 'values')
    """
    if kind == "auto" and targets is not None and (targets.is_floating_point() or targets.shape != outputs.shape[:1]):
        return "values"
    return "logits" if are_logits(outputs, kind) else "values"

"""What a user should know before any training: data that decide nothing, limits that limit nothing."""

from __future__ import annotations

import torch

from sigmaquant.budget import Budget
from sigmaquant.search.session import Session
from sigmaquant.units import counted, format_bytes

_FEW_EXAMPLES = 50
_FAR_BELOW = 0.5


def cautions(session: Session, budget: Budget) -> tuple[str, ...]:
    """Sentences about a float network no better than chance, few validation examples, and odd limits.

    Args:
        session: of the budget, with the float network's score.
        budget: as the user gave it.
    """
    found = (_chance(session), _few(session), _floor(session, budget), _size(session))
    return tuple(sentence for sentence in found if sentence)


def _chance(session: Session) -> str:
    """Whether the float network is no better than always giving the most frequent class."""
    if session.task.metric_name != "top1":
        return ""
    targets = torch.cat([torch.as_tensor(target).cpu().flatten() for _, target in session.judge.source.batches()])
    if targets.is_floating_point() or not len(targets):
        return ""
    guess = float(torch.bincount(targets.long().clamp(min=0)).max()) / len(targets)
    accuracy = session.float_accuracy
    if accuracy > guess + 2 * session.judge.standard_error(guess):
        return ""
    return (
        f"the float network has {accuracy:.4f} on the validation data, no better than always giving one class "
        f"({guess:.4f}): check that its weights are loaded, and that inputs are prepared and classes numbered as "
        "in its training"
    )


def _few(session: Session) -> str:
    count = session.data.validation.examples
    if count is None or count >= _FEW_EXAMPLES or not session.task.share:
        return ""
    return (
        f"{counted(count, 'validation example')} decide everything: one more that is right moves a share by "
        f"{1 / count:.2f}, so that scores are mostly chance; give more"
    )


def _floor(session: Session, budget: Budget) -> str:
    floor, accuracy = session.limits.accuracy_floor, session.float_accuracy
    if budget.accuracy is None or budget.accuracy.relative or floor is None or not 0 < floor < _FAR_BELOW * accuracy:
        return ""
    return (
        f"the accuracy floor {floor:g} is far below the float network's {accuracy:.4f} and hardly limits anything; the "
        f'largest drop from it is written with a minus sign, like "-{100 * floor:g} %"'
    )


def _size(session: Session) -> str:
    limit = session.limits.upper.get("size_bytes")
    reference = session.reference.resource("size_bytes", session.limits.size_counts)
    if limit is None or reference is None or limit < reference:
        return ""
    return (
        f"the size limit of {format_bytes(limit)} is no less than the float network's {format_bytes(reference)}: it "
        "limits nothing"
    )

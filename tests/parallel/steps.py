"""Some steps of training, in a module that both processes can import."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from sigmaquant.parallel import function_processes

HERE = Path(__file__).parent


def trained(batch_sizes: tuple[int, ...], lr: float = 0.001) -> list[dict[str, Tensor]]:
    """Weights and statistics after each step, one batch of each size."""
    sys.path[:0] = [str(HERE.parent / "training")]
    from training_cases import CPU, problem, student

    from sigmaquant.training.qat import train_

    one = student()
    found = []
    for number, size in enumerate(batch_sizes):
        train_(
            one.network,
            one.teacher,
            [problem(size, seed=number)],
            one.optimizer,
            one.recipe,
            CPU,
            schedule=lambda position: lr / one.recipe.lr,
        )
        found.append({key: value.clone() for key, value in one.network.state().items()})
    return found


def in_another(sizes: tuple[int, ...]) -> None:
    """What the second process does."""
    with function_processes(2, "cpu", in_another, {}):
        trained(sizes)

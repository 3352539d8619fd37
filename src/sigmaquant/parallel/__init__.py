"""One run in several processes, which compute parts of the same batches and decide alike; over `torch.distributed`."""

from sigmaquant.parallel.launching import command_processes, function_processes
from sigmaquant.parallel.processes import (
    agreed,
    agreed_state,
    alone,
    gathered,
    is_main,
    mine,
    rank,
    same_everywhere,
    share_tensors_,
    sum_tensors_,
    world_size,
)

__all__ = [
    "agreed",
    "agreed_state",
    "alone",
    "command_processes",
    "function_processes",
    "gathered",
    "is_main",
    "mine",
    "rank",
    "same_everywhere",
    "share_tensors_",
    "sum_tensors_",
    "world_size",
]

"""Which options stand together in ``--help``, and the examples at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from typer.models import OptionInfo

PANELS: Mapping[str, tuple[str, ...]] = {
    "Model and data": ("weights", "train", "val", "test", "data", "input_shape", "task", "metric", "loss", "outputs"),
    "Budget": (
        *("size", "plans", "accuracy", "bops", "macs", "energy", "latency", "ram", "flash", "size_counts", "hardware"),
        *("control", "accept_control"),
    ),
    "Run": ("config", "out", "resume", "overwrite", "jobs", "address", "export", "seed", "device", "devices"),
    "Search": (
        *("strategy", "start", "objective", "bitwidths", "activation_bits", "midrise_up_to", "pin", "allow", "sigma"),
        "prune",
        *("activation_bitwidths", "equalize", "sensitivity", "max_cycles", "search_minutes"),
    ),
    "Training": (
        *("minutes", "effort", "post_training", "epochs", "steps", "cycle_examples", "batch_size", "lr", "bf16"),
        "distill",
    ),
    "Output": ("json_output", "quiet"),
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "quantize": (
        "sigmaquant quantize net.py:model --train data.py:train --size 8x --out run",
        'sigmaquant quantize timm:resnet18 --train imagefolder:photos --accuracy "-1 %" --control --export onnx',
        "sigmaquant quantize --config run/command.toml --size 10x --out smaller",
    ),
    "inspect": (
        "sigmaquant inspect net.onnx --input-shape 3x224x224",
        "sigmaquant inspect net.py:model --data data.py:test --hardware cortex-m4",
        "sigmaquant inspect net.py:model --input-shape 1x28x28 --files c --json",
    ),
    "evaluate": (
        "sigmaquant evaluate run --model net.py:model --data data.py:test",
        "sigmaquant evaluate run --model net.py:model --data imagefolder:photos --metric metrics.py:top5",
        "sigmaquant evaluate run --model net.onnx --data data.npz --json",
    ),
    "compare": (
        "sigmaquant compare run smaller",
        "sigmaquant compare runs/*",
        "sigmaquant compare run smaller --json",
    ),
    "sweep": (
        "sigmaquant sweep net.py:model --train data.py:train --size 6x,8x,10x --out sweep",
        "sigmaquant sweep net.py:model --train data.py:train --size 8x --strategy sigma,ilp,uniform --out sweep",
        "sigmaquant sweep --config sweep/command.toml --out sweep --resume",
    ),
    "report": (
        "sigmaquant report run",
        "sigmaquant report run smaller --out both.html",
        "sigmaquant report runs/* --out pages --json",
    ),
    "export": (
        "sigmaquant export run --model net.py:model --data data.py:test --to onnx,litert",
        "sigmaquant export run --model net.py:model --data data.py:test --to c --name detector --out firmware",
        "sigmaquant export run --model net.py:model --data data.npz --to litert --inputs int8 --logits",
    ),
    "verify": (
        "sigmaquant verify run --model net.py:model --data data.py:test",
        "sigmaquant verify run/export/model.onnx --model net.py:model --data data.py:test --examples 100",
        "sigmaquant verify run --model net.onnx --data data.npz --json",
    ),
}


def in_panels(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, its options in their panels."""
    hints = get_type_hints(command, include_extras=True)
    command.__annotations__ = hints  # evaluated once, so that the panels below stay
    for name, hint in hints.items():
        for found in getattr(hint, "__metadata__", ()):
            if isinstance(found, OptionInfo) and name in _PANEL_OF:
                found.rich_help_panel = _PANEL_OF[name]
    return command


def without_panel(command: Any) -> list[str]:
    """Options of a built command that stand in no panel of ours."""
    return [
        parameter.name
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name not in (*_PANEL_OF, "help")
    ]

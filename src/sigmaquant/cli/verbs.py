"""The verbs by name, with a line on each: what ``--help`` shows, without importing what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table

from sigmaquant._version import __version__

if TYPE_CHECKING:
    import typer

SUMMARY = "Fit a trained neural network into an edge device: a bitwidth for every layer, within a budget."
VERBS: Mapping[str, str] = {
    "quantize": "Choose a bitwidth for every layer, train briefly, write the run.",
    "inspect": "Show every layer: shapes, MACs, sigma, divergence, bytes; what stays float.",
    "evaluate": "Score a run's plan and checkpoint on data, beside the float model.",
    "compare": "Show finished runs side by side.",
    "sweep": "A run for each of several limits, like --size 6x,8x,10x, and the frontier.",
    "report": "Write the report of one or more runs: one HTML page, with its numbers.",
    "export": "Write files that run on devices, and verify each on data.",
    "verify": "Run exported files against the integer reference.",
    "hardware": "Profiles of devices: what MACs and memory cost.",
}
EXAMPLES = (
    "sigmaquant inspect net.py:model --input-shape 3x32x32",
    "sigmaquant quantize net.py:model --train data.py:train --size 8x --out run",
    "sigmaquant export run --model net.py:model --data data.py:test --to onnx,c",
)
OPTIONS: Mapping[str, str] = {
    "--version": "show the version",
    "--install-completion": "install completion for the current shell",
    "--show-completion": "show that completion, to copy or change it",
    "--help, -h": "show this message",
}


def epilog(examples: Sequence[str]) -> str:
    """Examples as the last part of a help text."""
    return "Examples:\n\n" + "\n\n".join(f"[bold]{escape(line)}[/bold]" for line in examples)


def make_app() -> typer.Typer:
    """The program without its verbs."""
    import typer

    def show_version(show: bool) -> None:
        if show:
            print(f"sigmaquant {__version__}")
            raise typer.Exit

    app = typer.Typer(
        name="sigmaquant",
        help=SUMMARY,
        epilog=epilog(EXAMPLES),
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def options(version: bool = False) -> None:
        pass

    # set here, since annotations are text in this module, which is evaluated without the names of a function
    option = typer.Option("--version", callback=show_version, is_eager=True, help=OPTIONS["--version"])
    options.__annotations__["version"] = Annotated[bool, option]
    app.callback()(options)

    return app


def names_alone() -> typer.Typer:
    """The program with verbs that do nothing: enough to complete their names."""
    app = make_app()
    for name, line in VERBS.items():
        app.command(name, help=line)(lambda: None)
    return app


def overview() -> None:
    """Print the program's help, as the library of the command line would, at a third of its time."""
    console = Console(highlight=False)
    console.print("\n [bold]Usage:[/bold] sigmaquant [OPTIONS] COMMAND [ARGS]...", markup=True)
    console.print(Padding(SUMMARY, 1))
    for title, lines in (("Options", OPTIONS), ("Commands", VERBS)):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name, line in lines.items():
            table.add_row(f"[bold cyan]{name}[/bold cyan]", line)
        console.print(Panel(table, title=title, title_align="left", border_style="dim"))
    console.print("\n Examples:\n", *(f" [bold]{escape(line)}[/bold]" for line in EXAMPLES), "", sep="\n")
    console.print(" [dim]sigmaquant COMMAND --help shows what a command takes.[/dim]")

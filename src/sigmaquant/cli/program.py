"""The command line: parses, calls the same public functions, prints. Results on stdout, everything else on stderr."""

from __future__ import annotations

from collections.abc import Callable

from sigmaquant.cli import export, hardware, report, runs, sweep
from sigmaquant.cli.panels import EXAMPLES, in_panels
from sigmaquant.cli.verbs import VERBS, epilog, make_app

app = make_app()
_COMMANDS: dict[str, Callable[..., None]] = {
    "quantize": runs.quantize_command,
    "inspect": runs.inspect_command,
    "evaluate": runs.evaluate_command,
    "compare": runs.compare_command,
    "sweep": sweep.sweep_command,
    "report": report.report_command,
    "export": export.export_command,
    "verify": export.verify_command,
}
for _name, _verb in _COMMANDS.items():
    app.command(_name, short_help=VERBS[_name], epilog=epilog(EXAMPLES[_name]))(in_panels(_verb))
app.add_typer(hardware.app, name="hardware", short_help=VERBS["hardware"])

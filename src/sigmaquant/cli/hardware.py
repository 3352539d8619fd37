"""The verbs of hardware profiles: list and show."""

from __future__ import annotations

from typing import Annotated

import typer

from sigmaquant import tables
from sigmaquant.cli.common import JsonOption, print_json, print_parts
from sigmaquant.hardware.profile import load_profile, shipped_profiles

app = typer.Typer(name="hardware", help="Profiles of devices: what MACs and memory cost.", no_args_is_help=True)


@app.command("list")
def list_command(json_output: JsonOption = False) -> None:
    """Show the profiles that come with the package."""
    profiles = [load_profile(name) for name in shipped_profiles()]
    if json_output:
        print_json([{"name": profile.name, "description": profile.description} for profile in profiles])
    else:
        print_parts(tables.profiles(profiles))


@app.command("show")
def show_command(
    profile: Annotated[str, typer.Argument(help="a shipped profile's name, or a file")], json_output: JsonOption = False
) -> None:
    """Show a profile: how it was made, and what a MAC costs at each pair of bitwidths."""
    found = load_profile(profile)
    if json_output:
        print_json(found.to_dict())
    else:
        print_parts(*tables.profile(found))

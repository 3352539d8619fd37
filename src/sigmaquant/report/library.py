"""Vega, Vega-Lite and Vega-Embed as one script that needs no network, made once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

from sigmaquant.errors import StorageError
from sigmaquant.runs.atomic import write_bytes_atomic

log = logging.getLogger("sigmaquant")

_HEADER = b"//sha256 "
_SNIPPET = "window.vegaEmbed = vegaEmbed;"


def cache_folder() -> Path:
    """Where the script is kept: ``sigmaquant/`` below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sigmaquant"


def versions() -> dict[str, str]:
    """Versions of the libraries in the script, by name."""
    import vl_convert

    return {
        "Vega": vl_convert.get_vega_version(),
        "Vega-Lite": vl_convert.get_vegalite_versions()[-1],
        "Vega-Embed": vl_convert.get_vega_embed_version(),
    }


@cache
def chart_library() -> str:
    """The script: it defines `vegaEmbed`.

    Making it takes seconds, so it is kept on the disk under its versions, with a digest: a file that was cut or changed
    is made again. Where it cannot be kept, it is made anew in each process.
    """
    name = f"vega-{'-'.join([*versions().values(), version('vl-convert-python')])}.js"
    try:
        path = cache_folder() / name
    except RuntimeError:  # a user without a home
        return _make()
    found = _read(path)
    if found is not None:
        return found
    text = _make()
    data = text.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, _HEADER + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    except (StorageError, OSError) as error:
        log.debug("the charts' library is not kept: %s", error)
    return text


def _make() -> str:
    import vl_convert

    text: str = vl_convert.javascript_bundle(_SNIPPET)
    return text


def _read(path: Path) -> str | None:
    """The script in a file, if it is the one that was written."""
    try:
        first, _, data = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    whole = first == _HEADER + hashlib.sha256(data).hexdigest().encode()
    return data.decode() if whole else None

"""The page: the report's document in a template, with the charts' library, so that it needs no network.

Every text of a run goes through the template's escaping or into a JSON block; the only scripts that the browser may run
are the two whose digests stand in the page's policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sigmaquant._version import __version__
from sigmaquant.budget import RESOURCE
from sigmaquant.report import words
from sigmaquant.report.document import MEASURES, Report
from sigmaquant.report.library import chart_library, versions
from sigmaquant.report.numbers import budget_text
from sigmaquant.units import format_seconds

_SCRIPTS = ("format.js", "charts.js", "page.js")
_NOT_FOR_CHARTS = {"coverage", "float_operators", "artifacts", "integers", "notes", "missing", "budget", "pictures"}


@cache
def asset(name: str) -> str:
    """A file that lies beside this one."""
    return (resources.files("sigmaquant.report") / "assets" / name).read_text(encoding="utf-8")


def own_script() -> str:
    """Our part of the page's code, in one function: the library's names are not in its way."""
    return "(() => {\n" + "\n".join(map(asset, _SCRIPTS)) + "})();"


def render(report: Report, files: tuple[str, ...] = ()) -> str:
    """The page.

    Args:
        report: what it shows.
        files: names of the files beside it that hold its numbers.
    """
    library, script = safe_script(chart_library()), safe_script(own_script())
    runs = report.runs
    return _template().render(
        report=report,
        several=len(runs) > 1,
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} runs",
        runs_lead=words.runs_lead(runs),
        run_measures=words.run_columns(runs),
        policy=policy(library, script),
        style=Markup(asset("page.css")),
        data=Markup(safe_json(chart_data(report))),
        library=Markup(library),
        script=Markup(script),
        licence=Markup(asset("vega-licence.txt")),
        libraries=versions(),
        files=files,
        version=__version__,
    )


def chart_data(report: Report) -> dict[str, Any]:
    """What the charts need of the document."""
    runs = report.model_dump(mode="json", exclude={"runs": {"__all__": _NOT_FOR_CHARTS}})["runs"]
    return {"measures": MEASURES, "runs": runs, "swept": swept_measures(report)}


def swept_measures(report: Report) -> list[str]:
    """The costs whose limits differ between the runs, by the names the charts have for them."""
    runs = report.runs
    differ = [cost for limit, cost in RESOURCE.items() if len({str(run.budget.get(limit)) for run in runs}) > 1]
    size = "weight_bytes" if all(run.size_counts == "weights" for run in runs) else "bytes"
    return [size if cost == "size_bytes" else cost for cost in differ]


def safe_json(value: Any) -> str:
    r"""JSON that no HTML or script parser can leave early.

    Example:
        >>> safe_json("</script>")
        '"\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in ("<", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def safe_script(text: str) -> str:
    r"""A script that HTML cannot leave early: what would end or comment it stands in strings only, where `\` is free.

    Example:
        >>> safe_script('x = "</script>"')
        'x = "<\\/script>"'
    """
    return re.sub(r"<(?=/script|!--)", lambda _: "<\\", text, flags=re.IGNORECASE)


def policy(*scripts: str) -> str:
    """The page's Content-Security-Policy: these scripts and no other, the page's styles, and no network at all.

    Styles are free because the charts and the page's keys set them on elements; a style cannot load anything here.
    `unsafe-eval` is not needed: Vega-Embed's interpreter (``ast: true``) evaluates the charts' expressions.
    """
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        cost=words.cost_text,
        score=words.score_text,
        seconds=format_seconds,
        decimals=lambda value, digits: words.NOTHING if value is None else f"{value:.{digits}f}",
        significant=lambda value: words.NOTHING if value is None else f"{value:.4g}",
        general=lambda value: f"{value:g}",
        grouped=lambda value: words.NOTHING if value is None else f"{value:,}",
        share=lambda value: f"{100 * value:.2f} %",
        shape=lambda value: words.NOTHING if value is None else "×".join(map(str, value)) or "scalar",
    )
    environment.globals.update(
        verdict_text=words.verdict_text,
        budget_text=budget_text,
        lead=words.lead,
        facts=words.facts,
        comparison=words.comparison,
        device_columns=words.device_columns,
        layer_measures=words.layer_measures,
        has_statistics=words.has_statistics,
        has_costs=words.has_costs,
        has_sensitivities=words.has_sensitivities,
        file_limits=words.file_limits,
        stage_title=words.stage_title,
        judged=words.judged,
    )
    return environment.from_string(asset("page.html.j2"))

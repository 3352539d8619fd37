"""The page as text: what it says, what it escapes, and what it does without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_cases

from sigmaquant.errors import RunDirectoryError
from sigmaquant.report import library
from sigmaquant.report.gather import gather
from sigmaquant.report.page import asset, render, safe_json, safe_script
from sigmaquant.report.words import cost_text, facts, judged, lead, score_text


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


def page_of(*paths: Path) -> str:
    return render(gather(paths), ("report.json",))


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(0)" / 'x"><img src=y onerror=alert(3)>'
    path = report_cases.write_run(evil, report_cases.EVIL, notes=["<b>bold</b>", "</script>"], metric="<i>m</i>")
    report_cases.verification(path, None, first_difference="activation '<u>' at 0")
    report = gather([path, report_cases.write_run(tmp_path / "other")])
    text = render(report, ())
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 3, "data, library, ours"
    assert not {"img", "b", "i", "u"} & (set(tags) - {"b", "i"}), "keys of the charts alone"
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    words = "".join(page.words)
    for name in report_cases.EVIL:
        assert name in words
    assert "49" not in re.findall(r"a\"b'c & (.*?) <!--", words)
    data = json.loads(page.scripts[0])
    assert [layer["name"] for layer in data["runs"][0]["layers"]] == list(report_cases.EVIL)
    assert "<" not in page.scripts[0]
    assert "\u2028" not in page.scripts[0]


def test_only_the_page_itself_may_run_and_nothing_may_be_loaded(tmp_path: Path) -> None:
    page = Page(page_of(report_cases.write_run(tmp_path / "run")))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    for script in page.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links == ["data:,", "report.json"]
    assert "@import" not in asset("page.css")
    assert "url(" not in asset("page.css")


def test_the_library_is_the_whole_of_it_with_its_licence(tmp_path: Path) -> None:
    text = page_of(report_cases.write_run(tmp_path / "run"))
    assert "vegaEmbed" in text
    assert "University of Washington Interactive Data Lab" in text
    assert "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS" in text
    assert all(f"{name} {number}" in text for name, number in library.versions().items())


@pytest.mark.parametrize("text", ["</script>", "<!-- x", "</SCRIPT>", "a<b"])
def test_a_script_cannot_be_left(text: str) -> None:
    safe = safe_script(f'x = "{text}"')
    assert "</script" not in safe.lower()
    assert "<!--" not in safe
    assert safe.replace("<\\", "<") == f'x = "{text}"'


def test_json_cannot_be_left() -> None:
    value = {"</script>": "\u2028\u2029<!--", "µ": 1}
    assert json.loads(safe_json(value)) == value
    assert not set("<\u2028\u2029") & set(safe_json(value))
    with pytest.raises(ValueError, match="not JSON compliant"):
        safe_json(float("nan"))


def test_the_first_words_are_the_answer(tmp_path: Path) -> None:
    met = gather([report_cases.write_run(tmp_path / "met", device=True)]).runs[0]
    assert met.cost is not None
    assert met.reference is not None
    ratio = met.reference.total_bytes / met.cost.total_bytes
    assert f"{ratio:.1f}× smaller, 89.50\xa0% in place of 92.50\xa0% on the test data (−3.00 points)." in lead(met)
    cards = {card.title: card for card in facts(met)}
    assert list(cards) == ["Size", "Accuracy (top1)", "Energy", "Latency", "Cycles", "Bits for a weight"]
    assert cards["Size"].ok
    assert cards["Size"].limit == f"limit {cost_text(met.limits['size_bytes'], 'size_bytes')}"
    assert cards["Accuracy (top1)"].uniform == "uniform 4 bits: 87.00\xa0%"
    missed = gather([report_cases.write_run(tmp_path / "missed", status="not met")]).runs[0]
    assert lead(missed).endswith("The size is 1.23 % over its limit.")
    assert not facts(missed)[0].ok
    assert "✕ budget not met" in page_of(tmp_path / "missed")
    going = gather([report_cases.write_run(tmp_path / "going", finished=False, steps=1)]).runs[0]
    assert lead(going) == "This run has not finished: 1 step so far."
    assert facts(going) == []


def test_what_costs_more_than_eight_bits_is_not_called_less(tmp_path: Path) -> None:
    run = gather([report_cases.write_run(tmp_path / "run", device=True)]).runs[0]
    assert run.cost is not None
    assert run.reference_cost is not None
    for times, words in ((2.0, "2.00× more than 8-bit"), (0.5, "2.00× less than 8-bit")):
        cost = run.cost.model_copy(update={"latency_ms": times * run.reference_cost.latency_ms})
        cards = {card.title: card for card in facts(run.model_copy(update={"cost": cost}))}
        assert cards["Latency"].lines[0].startswith(words)


def test_scores_of_other_metrics_are_no_percentages(tmp_path: Path) -> None:
    run = gather([report_cases.write_run(tmp_path / "run", metric="negative_error")]).runs[0]
    assert score_text(-1.25, run) == "-1.2500"
    text = page_of(tmp_path / "run")
    assert "Score (negative_error)" in text
    assert judged(run) == "The search was judged on 2,048 of 5,000 validation examples, the rest on all of them."


def test_a_failed_file_says_what_it_needs(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    report_cases.verification(path, None)
    words = "".join(Page(page_of(path)).words)
    assert "✓ verified" in words
    assert "✕ failed, needs every code equal" in words
    assert "1,400 of 2,000 bytes of size, 70 %" in words


def test_noise_and_the_sensitivities_that_decided_are_shown(tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run")
    run = gather([path]).runs[0]
    assert run.noise.test == 0.004  # of the difference, on the data of the verdict
    assert run.noise.validation == pytest.approx((0.93 * 0.07 / 5000) ** 0.5)  # of one share
    words = "".join(Page(page_of(path)).words)
    assert "within chance of it (two standard errors)" in words
    assert "Sensitivity (curvature)" in words
    other = report_cases.write_run(tmp_path / "other", metric="negative_error")
    assert gather([other]).runs[0].noise.validation is None


def test_costs_are_written_as_in_the_pages_script() -> None:
    assert cost_text(0, "size_bytes") == "0\xa0B"
    assert cost_text(12_345_678, "bops") == "12.35\xa0M"
    assert cost_text(999.96, "cycles") == "1000"
    assert cost_text(0.0005, "latency_ms") == "500\xa0ns"


def test_the_charts_library_is_kept_and_made_again_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "window.vegaEmbed = 'µ';"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_make", make)
    fresh = library.chart_library.__wrapped__
    assert fresh() == fresh() == "window.vegaEmbed = 'µ';"
    assert len(made) == 1
    (path,) = (tmp_path / "sigmaquant").iterdir()
    assert library.versions()["Vega"] in path.name
    path.write_bytes(path.read_bytes()[:-3])
    assert fresh() == "window.vegaEmbed = 'µ';"
    assert len(made) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fresh() == "window.vegaEmbed = 'µ';", "where it cannot be kept, it is made"
    assert len(made) == 3


def test_pictures_show_what_both_networks_find(tmp_path: Path) -> None:
    run = report_cases.write_run(tmp_path / "run")
    box = {"x1": 0.25, "y1": 0.5, "x2": 0.75, "y2": 1.0, "label": "<b>cat</b>", "score": 0.875}
    picture = {"image": "data:image/jpeg;base64,AAAA", "width": 100, "height": 60}
    found = {**picture, "truth": [{**box, "score": None}], "before": [box], "after": []}
    (run / "pictures.json").write_text(json.dumps({"pictures": [found]}), encoding="utf-8")
    text = page_of(run)
    assert text.count('<svg viewBox="0 0 100 60"') == 2, "float beside quantized"
    assert '<rect class="found" x="25.0" y="30.0" width="50.0" height="30.0"/>' in text
    assert text.count('<rect class="truth"') == 2
    assert "float: &lt;b&gt;cat&lt;/b&gt; 0.88" in text
    assert "quantized: nothing" in text
    found["image"] = "https://elsewhere.example/a.jpg"
    (run / "pictures.json").write_text(json.dumps({"pictures": [found]}), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match=r"pictures\.json"):
        page_of(run)


def test_a_metric_that_is_a_share_is_shown_in_percent(tmp_path: Path) -> None:
    run = report_cases.write_run(tmp_path / "run", metric="AP50")
    document = json.loads((run / "config.json").read_text(encoding="utf-8"))
    for share, card in ((True, "Accuracy (AP50)"), (False, "Score (AP50)")):
        document["config"]["task"] = {"name": "detection", "share": share}
        (run / "config.json").write_text(json.dumps(document), encoding="utf-8")
        assert card in [fact.title for fact in facts(gather([run]).runs[0])]

"""The page in a real browser, from a file, without a network: a person looks, hovers, chooses, prints."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import report_cases

from sigmaquant.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the path")

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = (360, 768, 1280)
NAMES = tuple(f"block{number}.conv" for number in range(12))


@dataclass
class Watched:
    """A page, what its console said, and what it asked the network for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Until all charts are drawn, those that a change of size asked for too."""
        for _ in range(2):
            self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            self.page.evaluate("() => window.sigmaquantReport.drawn()")

    def chart(self, name: str) -> Any:
        return self.page.locator(f'article:not([hidden]) [data-chart="{name}"], section [data-chart="{name}"]').first

    def drawing(self, name: str) -> str:
        return str(self.chart(name).inner_html())

    def choice(self, name: str) -> Any:
        return self.page.locator(f'[data-choice="{name}"]:visible').first

    def tooltip(self) -> str:
        element = self.page.locator("#vg-tooltip-element.visible")
        element.wait_for(state="visible", timeout=5000)
        return str(element.inner_text())


Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a report as a file; at the end, no console error and no request to a network."""
    opened: list[Watched] = []

    def start(path: Path, width: int = 1280, scheme: str = "light", **options: Any) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        watched = Watched(context.new_page())

        def route(found: Any) -> None:
            watched.asked.append(found.request.url)
            found.abort()

        context.route(lambda url: not url.startswith(("file:", "data:")), route)
        watched.page.on("console", lambda message: watched.said.append(f"{message.type}: {message.text}"))
        watched.page.on("pageerror", lambda error: watched.said.append(f"error: {error}"))
        watched.page.on("dialog", lambda dialog: watched.said.append(f"dialog: {dialog.message}"))
        opened.append(watched)
        watched.page.goto(path.as_uri())
        watched.settle()
        return watched

    yield start
    for watched in opened:
        watched.page.context.close()
    assert [line for watched in opened for line in watched.said] == []
    assert [url for watched in opened for url in watched.asked] == []


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    path = report_cases.write_run(folder / "run", NAMES, device=True, steps=9)
    return write_report([report_cases.verification(path, None)])


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four budgets, one of which is missed; one run that has not finished."""
    folder = tmp_path_factory.mktemp("several")
    runs = [
        report_cases.write_run(folder / f"size-{number}", NAMES, shift=number, accuracy=0.92 - 0.01 * number**2)
        for number in range(3)
    ]
    runs.append(report_cases.write_run(folder / "missed", NAMES, accuracy=0.8, status="not met"))
    runs.append(report_cases.write_run(folder / "going", NAMES, finished=False))
    return write_report(runs, folder / "report.html")


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize(("width", "scheme"), list(zip(WIDTHS, ("dark", "light", "dark"), strict=True)))
def test_every_chart_is_drawn_and_nothing_is_wider_than_the_window(
    open_page: Open, single: Path, several: Path, width: int, scheme: str
) -> None:
    for path, charts in (
        (
            single,
            ("bits", "sigma", "divergence", "sensitivity", "steps-cost", "steps-score", "costs", "histogram", "ladder"),
        ),
        (several, ("frontier", "bits", "histogram")),
    ):
        shown = open_page(path, width, scheme)
        assert overflow(shown.page) <= 0
        for name in charts:
            box = shown.chart(name).locator("svg").bounding_box()
            assert box is not None, name
            assert 200 < box["width"] <= width, name
            assert box["height"] > 80, name


def test_colours_follow_the_scheme_while_the_page_is_open(open_page: Open, single: Path) -> None:
    shown = open_page(single)

    def colours() -> tuple[str, str]:
        bar = shown.chart("bits").locator('path[fill^="var(--b"]').first
        return (
            shown.page.evaluate("() => getComputedStyle(document.body).backgroundColor"),
            bar.evaluate("(element) => getComputedStyle(element).fill"),
        )

    light = colours()
    shown.page.emulate_media(color_scheme="dark")
    dark = colours()
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_a_hovered_bar_explains_itself(open_page: Open, single: Path) -> None:
    shown = open_page(single)
    said_of = {
        "bits": "uniform control",
        "sigma": "σ",
        "divergence": "nats",
        "sensitivity": "curvature",
        "costs": "before",
    }
    for chart, word in said_of.items():
        mark = shown.chart(chart).locator('[aria-label^="block3.conv"]').first
        mark.scroll_into_view_if_needed()
        mark.hover()
        said = shown.tooltip()
        assert "block3.conv" in said
        assert word in said
        shown.page.mouse.move(0, 0)
    band = shown.chart("steps-score").locator('[aria-label="within chance of the float network"]').first
    band.scroll_into_view_if_needed()
    assert band.bounding_box()["height"] > 2
    step = shown.chart("steps-score").locator('[aria-label^="step 3, demote, rejected"]').first
    step.scroll_into_view_if_needed()
    step.hover()
    assert "rejected" in shown.tooltip()


def test_a_layer_is_chosen_by_list_bar_and_keys(open_page: Open, single: Path) -> None:
    shown = open_page(single)
    layer = shown.choice("layer")
    before, facts = shown.drawing("histogram"), shown.page.locator('[data-text="layer"]').first
    layer.select_option(label="block11.conv")
    shown.settle()
    after = shown.drawing("histogram")
    assert after != before
    assert "bits\n2" in facts.inner_text()
    bar = shown.chart("bits").locator('[aria-label^="block0.conv"]').first
    bar.scroll_into_view_if_needed()
    bar.click()
    shown.settle()
    assert layer.input_value() == "0"
    assert shown.drawing("histogram") != after
    assert "bits\n8" in facts.inner_text()
    assert shown.page.get_by_label("previous layer").is_disabled()
    following = shown.page.get_by_label("next layer")
    following.focus()
    shown.page.keyboard.press("Enter")
    shown.settle()
    assert layer.input_value() == "1"
    assert 'aria-label="Weights of block1.conv' in shown.drawing("histogram")


def test_costs_and_steps_by_another_measure(open_page: Open, single: Path) -> None:
    shown = open_page(single)
    for choice, chart in (("cost-measure", "costs"), ("step-measure", "steps-cost")):
        options = [option.inner_text() for option in shown.choice(choice).locator("option").all()]
        assert {"energy", "cycles", "latency", "bit operations"} <= set(options)
        before = shown.drawing(chart)
        shown.choice(choice).select_option(label="energy")
        shown.settle()
        assert shown.drawing(chart) != before
        assert "energy, nJ" in shown.drawing(chart)
    assert "8-bit weights and activations" in shown.page.locator('[data-text="before"]').inner_text()


def test_two_costs_are_drawn_against_each_other(open_page: Open, several: Path) -> None:
    shown = open_page(several)
    before = shown.drawing("frontier")
    shown.choice("frontier-against").select_option(label="bit operations")
    shown.settle()
    assert shown.drawing("frontier") != before
    chart = shown.chart("frontier")
    assert chart.locator('[aria-label^="run size-"]').count() == 3
    assert "score" in chart.inner_text()


def test_a_point_of_the_frontier_shows_its_run(open_page: Open, several: Path) -> None:
    shown = open_page(several)
    assert shown.page.locator("article:visible h2").first.inner_text() == "size-0"
    point = shown.chart("frontier").locator('[aria-label^="run size-2"]').first
    point.hover()
    assert "size-2" in shown.tooltip()
    point.click()
    shown.settle()
    assert shown.page.locator("article:visible h2").first.inner_text() == "size-2"
    assert shown.choice("run").input_value() == "2"
    assert shown.chart("bits").locator("svg").count() == 1
    before = shown.drawing("frontier")
    shown.choice("frontier-score").select_option(label="test")
    shown.settle()
    assert shown.drawing("frontier") != before
    shown.choice("run").select_option(label="going")
    shown.settle()
    assert "has not finished" in shown.page.locator("article:visible").inner_text()
    assert shown.page.locator("article:visible").count() == 1


def test_names_stay_names(open_page: Open, tmp_path: Path) -> None:
    path = report_cases.write_run(tmp_path / "run", report_cases.EVIL)
    shown = open_page(write_report([path]))
    assert shown.page.evaluate("() => document.querySelectorAll('img').length") == 0
    options = shown.choice("layer").locator("option")
    assert [option.evaluate("(element) => element.textContent") for option in options.all()] == list(report_cases.EVIL)
    for number, name in enumerate(report_cases.EVIL[:2]):
        shown.choice("layer").select_option(value=str(number))
        shown.settle()
        bar = shown.chart("bits").locator('path[aria-roledescription="rect mark"]').nth(number)
        bar.hover()
        assert name in shown.tooltip()
        shown.page.mouse.move(0, 0)


def test_no_other_script_runs(browser: Any, single: Path) -> None:
    page = browser.new_page()
    page.goto(single.as_uri())
    ran = page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); return window.ran ?? null; }"
    )
    page.close()
    assert ran is None


def test_two_hundred_layers(open_page: Open, tmp_path: Path) -> None:
    names = [f"features.denseblock{i // 50}.denselayer{i % 50}.conv" for i in range(200)]
    path = write_report([report_cases.write_run(tmp_path / "run", names, steps=40)])
    wide = open_page(path, 1280)
    assert overflow(wide.page) <= 0
    assert wide.chart("bits").evaluate("(frame) => frame.scrollWidth - frame.clientWidth") <= 1, "all at a glance"
    narrow = open_page(path, 360)
    assert overflow(narrow.page) <= 0
    assert narrow.chart("bits").evaluate("(frame) => frame.scrollWidth > 2 * frame.clientWidth"), "scrolls in its frame"
    assert "go on to the right" in narrow.page.locator("article").inner_text()
    narrow.chart("bits").evaluate("(frame) => { frame.scrollLeft = 300; }")
    narrow.page.wait_for_function(
        "() => document.querySelector('[data-chart=costs]').scrollLeft === 300"
    )  # charts by layer stay side by side


def test_one_layer_and_no_step(open_page: Open, tmp_path: Path) -> None:
    shown = open_page(write_report([report_cases.write_run(tmp_path / "run", ("fc",), steps=0)]), 360)
    assert overflow(shown.page) <= 0
    assert shown.chart("bits").locator("svg").count() == 1


def test_an_old_run_and_one_that_has_just_begun(open_page: Open, tmp_path: Path) -> None:
    old = report_cases.write_run(tmp_path / "old", layers=False)
    begun = report_cases.write_run(tmp_path / "begun", finished=False, steps=0)
    shown = open_page(write_report([old, begun], tmp_path / "report.html"), 768)
    assert "Fewer than two runs have finished" in shown.page.locator("#frontier").inner_text()
    assert shown.chart("costs").locator("svg").count() == 1
    assert shown.page.locator('article:visible [data-chart="sigma"]').count() == 0
    shown.choice("run").select_option(label="begun")
    shown.settle()
    assert "0 steps so far" in shown.page.locator("article:visible").inner_text()


def test_it_prints(open_page: Open, single: Path) -> None:
    shown = open_page(single, 360, "dark")
    sheet = shown.page.pdf(format="A4")
    assert sheet.startswith(b"%PDF")
    assert len(sheet) > 50_000
    shown.settle()
    shown.page.emulate_media(media="print", color_scheme="dark")
    assert shown.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not shown.page.get_by_label("next layer").is_visible()
    shown.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    shown.page.set_viewport_size({"width": 700, "height": 900})
    assert shown.page.locator("article:visible details:not([open])").count() == 0
    for table in shown.page.locator("article:visible .scroll").all():
        assert table.evaluate("(frame) => frame.scrollWidth - frame.clientWidth") <= 1
    shown.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert shown.page.locator("article:visible details[open]").count() == 0
    shown.settle()


def test_plans_are_one_frontier(open_page: Open, tmp_path: Path) -> None:
    path = report_cases.with_plans(report_cases.write_run(tmp_path / "run", NAMES, device=True))
    watched = open_page(write_report([path]))
    drawn = watched.drawing("plans")
    assert drawn.count("run ") >= 3
    assert "for itself: 12x" in drawn
    watched.choice("plan-score").select_option("test")
    watched.settle()
    assert watched.drawing("plans") != drawn

// What the page does: draws the charts of the run that is shown, and keeps one chosen layer in all of them.

const { runs, swept: SWEPT } = JSON.parse(document.getElementById("data").textContent);
const TOOLTIP = { disableDefaultStyle: true, theme: "page" };
const PAPER = 660; // CSS pixels of a printed page's width

let lastDrawing = Promise.resolve();

/** A chart in its frame: drawn anew when the frame's width changes, with nothing loaded from anywhere. */
class Chart {
  constructor(frame, build, clicked) {
    Object.assign(this, { frame, build, clicked, view: null, turn: 0, width: 0 });
    frame.setAttribute("role", "group");
    new ResizeObserver(() => { if (Math.abs(frame.clientWidth - this.width) > 1) this.draw(); }).observe(frame);
  }

  draw() {
    const turn = ++this.turn;
    this.width = this.frame.clientWidth;
    if (this.width < 20) return;
    // One after the other: many at once would keep the page from answering.
    lastDrawing = lastDrawing.then(() => (turn === this.turn ? this.embed(turn) : null)).catch((error) => console.error(error));
  }

  async embed(turn) {
    const spec = this.build(this.width);
    const place = document.createElement("div");
    const { view } = await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: TOOLTIP,
    });
    if (turn !== this.turn) return view.finalize();
    this.view?.finalize();
    this.view = view;
    this.frame.replaceChildren(place);
    const wider = this.frame.scrollWidth > this.frame.clientWidth + 1;
    if (wider) this.frame.tabIndex = 0; // keys scroll it
    const hint = this.frame.closest("figure")?.querySelector('[data-text="more"]');
    if (hint) hint.hidden = !wider;
    if (this.clicked) view.addEventListener("click", (_, item) => { if (item?.datum?.index !== undefined) this.clicked(item.datum.index); });
  }

  select(index) {
    this.view?.signal("selected", index).runAsync();
  }

  /** The width of the paper; what is drawn here is drawn before the browser prints. */
  fit(width) {
    this.view?.width(width).run();
  }
}

/** A choice with its options: [value, text]; hidden when there is nothing to choose. */
function fill(select, options, chosen, changed) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
  select.addEventListener("change", () => changed(select.value));
  select.closest("label").hidden = options.length < 2;
}

function measureOptions(names) {
  return names.map((name) => [name, MEASURES[name].title]);
}

/** Plans of one run as the frontier of several runs has its points; beside each the same plan for itself. */
function planPoints(run) {
  return run.plans.map((plan) => ({
    ...plan, label: plan.name, finished: true, percent: run.percent, float_scores: run.float_scores, noise: run.noise,
    control: plan.alone ? { cost: plan.cost, scores: plan.alone, weights: plan.weights } : null,
  }));
}

function planMeasures(run) {
  return Object.keys(MEASURES).filter((name) => run.plans.filter((plan) => Number.isFinite(plan.cost[MEASURES[name].field])).length > 1);
}

class RunView {
  constructor(article, run) {
    Object.assign(this, { article, run, charts: {}, layer: largest(run.layers) });
    this.measure = ["bytes", "weight_bytes", ...Object.keys(MEASURES)].find((name) => this.knows(name));
    const counted = run.size_counts === "weights" ? "weight_bytes" : "bytes";
    const steps = Object.keys(MEASURES).filter((name) => run.steps.some((step) => Number.isFinite(step.cost[MEASURES[name].field])));
    const limited = Object.keys(run.limits).find((name) => name !== "accuracy");
    this.stepMeasure = !limited || limited === "size_bytes" ? counted : limited;
    this.planMeasure = run.size_counts === "weights" ? "weight_bytes" : "bytes";
    this.planScore = "validation";
    const pick = (index) => this.pick(index);
    this.rows = ["bits", "sigma", "divergence", "sensitivity", "costs"]; // charts by layer
    this.add("bits", (width) => bitsChart(run, this.layer, width), pick);
    this.add("sigma", (width) => sigmaChart(run, this.layer, width), pick);
    this.add("divergence", (width) => divergenceChart(run, this.layer, width), pick);
    this.add("sensitivity", (width) => sensitivityChart(run, this.layer, width), pick);
    this.add("costs", (width) => costsChart(run, this.layer, width, this.measure), pick);
    this.add("histogram", (width) => histogramChart(run.layers[this.layer], width));
    this.add("ladder", (width) => ladderChart(run.layers[this.layer], width));
    this.add("steps-cost", (width) => stepsCostChart(run, width, this.stepMeasure));
    this.add("steps-score", (width) => stepsScoreChart(run, width));
    this.add("plans", (width) => frontierChart(planPoints(run), -1, width, this.planMeasure, this.planScore, "for itself:"));
    const frames = this.rows.map((name) => this.charts[name]?.frame).filter(Boolean);
    for (const frame of frames) { // charts by layer are looked at in the same place
      frame.addEventListener("scroll", () => frames.forEach((other) => {
        if (other.scrollLeft !== frame.scrollLeft) other.scrollLeft = frame.scrollLeft;
      }));
    }
    this.choice("cost-measure", measureOptions(Object.keys(MEASURES).filter((name) => this.knows(name))), this.measure, (name) => {
      this.measure = name;
      this.charts.costs.draw();
      this.words();
    });
    this.choice("plan-measure", measureOptions(planMeasures(run)), this.planMeasure, (name) => {
      this.planMeasure = name;
      this.charts.plans.draw();
    });
    const planScores = ["validation", "test"].filter((kind) => run.plans.some((plan) => Number.isFinite(plan.scores[kind])));
    this.choice("plan-score", planScores.map((name) => [name, name]), this.planScore, (name) => {
      this.planScore = name;
      this.charts.plans.draw();
    });
    this.choice("step-measure", measureOptions(steps), this.stepMeasure, (name) => {
      this.stepMeasure = name;
      this.charts["steps-cost"].draw();
    });
    this.layerChoice = article.querySelector('[data-choice="layer"]');
    this.layerChoice?.addEventListener("change", () => this.pick(Number(this.layerChoice.value)));
    for (const button of article.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.pick(this.layer + Number(button.dataset.step)));
    }
    this.words();
  }

  knows(measure) {
    return this.run.layers.some((layer) => Number.isFinite(layer.after[measure]));
  }

  add(name, build, clicked) {
    const frame = this.article.querySelector(`[data-chart="${name}"]`);
    if (frame) this.charts[name] = new Chart(frame, build, clicked);
  }

  choice(name, options, chosen, changed) {
    const select = this.article.querySelector(`[data-choice="${name}"]`);
    if (select) fill(select, options, chosen, changed);
  }

  pick(index) {
    if (!this.run.layers[index]) return;
    this.layer = index;
    for (const name of this.rows) this.charts[name]?.select(index);
    for (const name of ["histogram", "ladder"]) this.charts[name]?.draw();
    this.words();
  }

  /** The words that depend on what is chosen. */
  words() {
    const { article, run, measure } = this;
    const layer = run.layers[this.layer];
    const text = (name, words) => {
      const place = article.querySelector(`[data-text="${name}"]`);
      if (place) place.textContent = words;
    };
    if (measure) {
      const device = MEASURES[measure].device;
      text("before", device ? `before: ${run.reference_bits ? `${run.reference_bits}-bit weights and activations, since float has no cost here` : "unknown"}` : "before: float32");
      const outside = run.outside[measure];
      text("outside", outside > 0 ? `${quantity(outside, MEASURES[measure].scale)} more are in no layer.` : "");
    }
    if (!layer) return;
    if (this.layerChoice) this.layerChoice.value = String(this.layer);
    for (const button of article.querySelectorAll("[data-step]")) button.disabled = !run.layers[this.layer + Number(button.dataset.step)];
    const facts = [["bits", String(layer.bits)]];
    if (layer.uniform_bits !== null) facts.push(["uniform control", `${layer.uniform_bits} bits`]);
    if (layer.kind) {
      facts.push(
        ["kind", layer.kind], ["weight", layer.weight_shape.join("×")], ["weights", grouped(layer.elements)],
        ["MACs", quantity(layer.macs, "count")], ["in", layer.input_shape.join("×")], ["out", layer.output_shape.join("×")],
        ["activations", layer.activation_bits === 32 ? "float" : `${layer.activation_bits} bits`], ["σ", digits(layer.sigma)],
        ["D", digits(layer.divergence[layer.bits])],
        ...(layer.sensitivity ? [[`${run.sensitivity} at ${layer.bits} bits`, digits(layer.sensitivity[layer.bits])]] : []),
      );
    }
    article.querySelector('[data-text="layer"]')?.replaceChildren(...facts.map(([term, value]) => {
      const row = document.createElement("div");
      row.append(Object.assign(document.createElement("dt"), { textContent: term }), Object.assign(document.createElement("dd"), { textContent: value }));
      return row;
    }));
    const found = layer.histogram;
    if (!found) return;
    const part = article.querySelector('[data-part="trained"]');
    if (part) part.hidden = found.trained === null;
    const key = article.querySelector('[data-part="levels"] i');
    if (key) key.style.background = `var(--b${layer.bits})`;
    text("histogram", `${found.levels.length} levels${layer.midrise ? ", none at zero" : ""}. `
      + `${percent(found.clipped / layer.elements)} of the float weights lie more than half a step beyond the outermost levels.`
      + (found.trained === null ? " The rounded weights are all there is: nothing was trained after rounding." : ""));
  }

  draw() {
    Object.values(this.charts).forEach((chart) => chart.draw());
  }
}

/** The layer with the most weights: the first one to look at. */
function largest(layers) {
  return layers.reduce((best, layer, index) => ((layer.elements ?? 0) > (layers[best].elements ?? 0) ? index : best), 0);
}

const articles = [...document.querySelectorAll("article[data-run]")];
const views = [];
let shown = 0;
let frontier = null;

function show(index) {
  shown = index;
  articles.forEach((article, number) => { article.hidden = number !== index; });
  views[index] ??= new RunView(articles[index], runs[index]);
  views[index].draw();
  const choice = document.querySelector('[data-choice="run"]');
  if (choice) choice.value = String(index);
  document.querySelectorAll("[data-run-row]").forEach((row) => row.classList.toggle("picked", Number(row.dataset.runRow) === index));
  frontier?.select(index);
}

function startFrontier() {
  const place = document.querySelector('[data-chart="frontier"]');
  if (!place) return;
  const section = document.getElementById("frontier");
  const finished = runs.filter((run) => run.finished);
  const has = (name) => finished.filter((run) => Number.isFinite(run.cost[MEASURES[name].field])).length > 1;
  const names = Object.keys(MEASURES).filter(has);
  const kinds = ["validation", "test"].filter((kind) => finished.some((run) => Number.isFinite(run.scores[kind])));
  if (!names.length || !kinds.length) {
    place.textContent = "Fewer than two runs have finished, so there is no frontier yet.";
    section.querySelector(".controls").hidden = true;
    return;
  }
  let measure = finished.every((run) => run.size_counts === "weights") && has("weight_bytes") ? "weight_bytes" : names[0];
  let kind = kinds[0];
  const swept = SWEPT.filter(has);
  let against = "score";
  if (swept.length === 2) [measure, against] = swept;
  const chart = (width) => (against === "score" || against === measure
    ? frontierChart(runs, shown, width, measure, kind) : twoCostChart(runs, shown, width, [measure, against], kind));
  frontier = new Chart(place, chart, show);
  const second = [["score", "score"], ...measureOptions(names)];
  fill(section.querySelector('[data-choice="frontier-against"]'), second, against, (name) => { against = name; frontier.draw(); });
  fill(section.querySelector('[data-choice="frontier-measure"]'), measureOptions(names), measure, (name) => { measure = name; frontier.draw(); });
  fill(section.querySelector('[data-choice="frontier-score"]'), kinds.map((name) => [name, name]), kind, (name) => { kind = name; frontier.draw(); });
  frontier.draw();
}

document.querySelector('[data-choice="run"]')?.addEventListener("change", (event) => show(Number(event.target.value)));
document.querySelectorAll("[data-run-row]").forEach((row) => row.addEventListener("click", () => show(Number(row.dataset.runRow))));

function visible() {
  return [frontier, ...Object.values(views[shown]?.charts ?? {})].filter(Boolean);
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...articles[shown].querySelectorAll("details:not([open])")];
  opened.forEach((details) => { details.open = true; });
  const share = { histogram: 0.64, ladder: 0.3 };
  visible().forEach((chart) => chart.fit(PAPER * (share[chart.frame.dataset.chart] ?? 1)));
  document.querySelectorAll(".scroll table").forEach((table) => { // all columns on the paper, as large as they can be
    table.style.width = "max-content";
    const size = parseFloat(getComputedStyle(table).fontSize) * (PAPER / table.offsetWidth);
    Object.assign(table.style, { width: "", fontSize: `${Math.max(5, Math.min(12, size))}px` });
  });
});
addEventListener("afterprint", () => {
  opened.forEach((details) => { details.open = false; });
  document.querySelectorAll(".scroll table").forEach((table) => { table.style.fontSize = ""; });
  visible().forEach((chart) => chart.draw());
});

startFrontier();
show(0);
// For tests: all charts that were asked for are drawn.
window.sigmaquantReport = { drawn: () => lastDrawing };

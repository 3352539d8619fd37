// Vega-Lite specifications. Colours are the page's variables, so that dark mode and print need no second drawing.

const BITS = [2, 3, 4, 5, 6, 7, 8];
const BIT_COLOURS = { domain: BITS, range: BITS.map((bits) => `var(--b${bits})`) };
const AXIS_WIDTH = 48; // equal everywhere: charts below each other share their places
const LABELLED = 13; // pixels for a layer from which on its name can stand below it
const WIDEST = 60; // pixels for a layer's bar
const NARROWEST = 4; // pixels for a layer; a chart of more layers scrolls in its frame

const LOG_AXIS = { tickCount: 3, labelExpr: "format(datum.value, datum.value < 0.01 ? '~e' : '~g')" };

const CONFIG = {
  background: null,
  font: 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif',
  padding: { left: 0, right: 2, top: 4, bottom: 4 },
  view: { stroke: null },
  axis: {
    labelColor: "var(--muted)", titleColor: "var(--muted)", gridColor: "var(--grid)", domainColor: "var(--line)",
    tickColor: "var(--line)", labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal",
  },
  axisY: { minExtent: AXIS_WIDTH, maxExtent: AXIS_WIDTH, domain: false, ticks: false, tickCount: 4, title: null },
  title: { color: "var(--muted)", fontSize: 12, fontWeight: 500, anchor: "start", offset: 6 },
  text: { color: "var(--muted)", fontSize: 11 },
};

function frame(width, height, title, description, rest) {
  return {
    width, height, title, description, autosize: { type: "fit-x", contains: "padding" }, config: CONFIG, ...rest,
  };
}

// -- by layer ----------------------------------------------------------------------------------------------------

/** How wide a chart of all layers is, and whether the layers' names fit below it. */
function layerWidth(width, count) {
  const wide = Math.max(width, AXIS_WIDTH + NARROWEST * count);
  return { wide, labelled: (wide - AXIS_WIDTH) / count >= LABELLED };
}

/** Marks under and over a chart of layers: the chosen one's background, and columns that answer to the pointer. */
function layerFrame(run, layout, last, layers, tooltip) {
  const places = run.layers.map((layer, index) => (layout.labelled ? layer.name : index + 1));
  const step = (layout.wide - AXIS_WIDTH) / places.length;
  const x = {
    field: layout.labelled ? "name" : "number", type: "nominal", sort: null,
    scale: { domain: places, paddingInner: Math.max(0.12, 1 - WIDEST / step), paddingOuter: 0.1 },
    axis: last ? {
      title: layout.labelled ? null : "layer", domain: true, ticks: false, labelPadding: 5, labelLimit: 120,
      ...(layout.labelled ? { labelAngle: -90 } : { labelAngle: 0, labelOverlap: "greedy", labelSeparation: 12 }),
    } : null,
  };
  return {
    encoding: { x },
    layer: [
      { mark: { type: "rect", fill: "var(--select)", aria: false }, transform: [{ filter: "datum.index === selected" }] },
      ...layers,
      {
        mark: { type: "rect", fill: "transparent", cursor: "pointer", strokeWidth: 1.5 },
        encoding: {
          tooltip, description: { field: "label" },
          stroke: { condition: { test: "datum.index === selected", value: "var(--mark)" }, value: null },
        },
      },
    ],
  };
}

const rowTooltip = (extra) => [
  { field: "name", title: "layer" }, { field: "bits", title: "bits" }, ...extra,
];

function bitsChart(run, selected, width) {
  const layout = layerWidth(width, run.layers.length);
  const uniform = run.layers.some((layer) => layer.uniform_bits !== null);
  const rows = run.layers.map((layer, index) => ({
    index, number: index + 1, name: layer.name, bits: layer.bits, uniform: layer.uniform_bits,
    label: `${layer.name}: ${layer.bits} bits`,
    weights: layer.elements === null ? "–" : grouped(layer.elements), macs: quantity(layer.macs, "count"), kind: layer.kind ?? "–",
  }));
  const y = { type: "quantitative", scale: { domain: [0, 8.9], nice: false }, axis: { values: [2, 4, 6, 8] } };
  const marks = [{
    mark: { type: "bar", aria: false },
    encoding: { y: { field: "bits", ...y }, color: { field: "bits", type: "ordinal", scale: BIT_COLOURS, legend: null } },
  }];
  if (uniform) {
    marks.push({
      mark: { type: "tick", color: "var(--orange)", thickness: 2, width: { band: 1 }, aria: false },
      encoding: { y: { field: "uniform", ...y } },
    });
  }
  if (layout.wide / run.layers.length >= 15) {
    marks.push({ mark: { type: "text", dy: -6, aria: false }, encoding: { y: { field: "bits", ...y }, text: { field: "bits" } } });
  }
  const tooltip = rowTooltip([
    ...(uniform ? [{ field: "uniform", title: "uniform control" }] : []),
    { field: "kind", title: "kind" }, { field: "weights", title: "weights" }, { field: "macs", title: "MACs" },
  ]);
  const last = !run.layers.some((layer) => layer.sigma !== null);
  return frame(layout.wide, 120 + (last && layout.labelled ? 90 : 0), "bits", "Bitwidth of every layer", {
    data: { values: rows }, params: [{ name: "selected", value: selected }], ...layerFrame(run, layout, last, marks, tooltip),
  });
}

function sigmaChart(run, selected, width) {
  const layout = layerWidth(width, run.layers.length);
  const rows = run.layers.map((layer, index) => ({
    index, number: index + 1, name: layer.name, bits: layer.bits, sigma: layer.sigma, shown: digits(layer.sigma),
    label: `${layer.name}: σ ${digits(layer.sigma)}`,
  }));
  const y = { field: "sigma", type: "quantitative", scale: { zero: true }, axis: { tickCount: 3 } };
  return frame(layout.wide, 90, "σ of the weights", "Standard deviation of every layer's float weights", {
    data: { values: rows }, params: [{ name: "selected", value: selected }],
    ...layerFrame(run, layout, false, [
      { mark: { type: "line", color: "var(--line)", strokeWidth: 1.5, aria: false }, encoding: { y } },
      {
        mark: { type: "circle", opacity: 1, size: layout.wide / run.layers.length > 9 ? 60 : 25, aria: false },
        encoding: { y, color: { field: "bits", type: "ordinal", scale: BIT_COLOURS, legend: null } },
      },
    ], rowTooltip([{ field: "shown", title: "σ" }])),
  });
}

/** What a bitwidth does to every layer: the chosen one (large) and the others (small), on a logarithmic axis. */
function harmChart(run, selected, width, { field, name, unit, title, last }) {
  const layout = layerWidth(width, run.layers.length);
  const rows = run.layers.map((layer, index) => {
    const at = layer[field] ?? {};
    return {
      index, number: index + 1, name: layer.name, bits: layer.bits, chosen: at[layer.bits] > 0 ? at[layer.bits] : null,
      label: `${layer.name}: ${name} ${digits(at[layer.bits])} at ${layer.bits} bits`, shown: digits(at[layer.bits]),
      ladder: BITS.filter((bits) => at[bits] > 0).map((bits) => ({ bits, value: at[bits] })),
    };
  });
  const y = { type: "quantitative", scale: { type: "log" }, axis: LOG_AXIS };
  const colour = { type: "ordinal", scale: BIT_COLOURS, legend: null };
  const size = layout.wide / run.layers.length > 9 ? 70 : 30;
  return frame(layout.wide, 110 + (last && layout.labelled ? 90 : 0), `${name} at the chosen bits, and at the others`, title, {
    data: { values: rows }, params: [{ name: "selected", value: selected }],
    ...layerFrame(run, layout, last, [
      {
        transform: [{ flatten: ["ladder"] }],
        mark: { type: "circle", opacity: 0.55, size: size / 4, aria: false },
        encoding: { y: { field: "ladder.value", ...y }, color: { field: "ladder.bits", ...colour } },
      },
      {
        transform: [{ filter: "isValid(datum.chosen)" }],
        mark: { type: "circle", opacity: 1, size, aria: false },
        encoding: { y: { field: "chosen", ...y }, color: { field: "bits", ...colour } },
      },
    ], rowTooltip([{ field: "shown", title: `${name}${unit}` }])),
  });
}

const hasSensitivities = (run) => run.layers.some((layer) => layer.sensitivity);

function divergenceChart(run, selected, width) {
  return harmChart(run, selected, width, {
    field: "divergence", name: "D", unit: ", nats per weight", title: "Divergence of every layer's weights", last: !hasSensitivities(run),
  });
}

function sensitivityChart(run, selected, width) {
  return harmChart(run, selected, width, {
    field: "sensitivity", name: "sensitivity", unit: ` (${run.sensitivity})`, title: "Sensitivity of every layer that the search went by", last: true,
  });
}

function costsChart(run, selected, width, measure) {
  const layout = layerWidth(width, run.layers.length);
  const { scale, title } = MEASURES[measure];
  const values = run.layers.flatMap((layer) => [layer.before[measure], layer.after[measure]]);
  const { factor, unit } = unitOf(scale, values);
  const total = run.layers.reduce((sum, layer) => sum + (layer.after[measure] ?? 0), 0);
  const scaled = (value) => (Number.isFinite(value) ? value / factor : null);
  const parts = [["mac", "MACs"], ["on_chip", "on-chip memory"], ["dram", "external memory"]];
  const energy = measure === "energy_pj";
  const rows = run.layers.map((layer, index) => ({
    index, number: index + 1, name: layer.name, bits: layer.bits,
    before: scaled(layer.before[measure]), after: scaled(layer.after[measure]),
    was: quantity(layer.before[measure], scale), is: quantity(layer.after[measure], scale),
    share: percent((layer.after[measure] ?? 0) / (total || 1)),
    label: `${layer.name}: ${quantity(layer.before[measure], scale)} before, ${quantity(layer.after[measure], scale)} after`,
    ...(energy ? Object.fromEntries(parts.map(([key]) => [key, quantity(layer.energy_parts[key], "energy")])) : {}),
  }));
  const y = { type: "quantitative", axis: { tickCount: 4 } };
  return frame(layout.wide, 170 + (layout.labelled ? 90 : 0), `${title}${unit ? `, ${unit}` : ""}`, `${title} of every layer before and after`, {
    data: { values: rows }, params: [{ name: "selected", value: selected }],
    ...layerFrame(run, layout, true, [
      { mark: { type: "bar", color: "var(--before)", aria: false }, encoding: { y: { field: "before", ...y } } },
      {
        mark: { type: "bar", width: { band: 0.62 }, aria: false },
        encoding: { y: { field: "after", ...y }, color: { field: "bits", type: "ordinal", scale: BIT_COLOURS, legend: null } },
      },
    ], rowTooltip([
      { field: "was", title: "before" }, { field: "is", title: "after" }, { field: "share", title: "share of all layers" },
      ...(energy ? parts.map(([field, name]) => ({ field, title: name })) : []),
    ])),
  });
}

// -- one layer ---------------------------------------------------------------------------------------------------

/** Shares of the weights in bins and on levels, per step, so that both have one axis. */
function histogramRows(layer) {
  const { first, width, float_weights: floats, trained, first_level: lowest, levels } = layer.histogram;
  const sum = (counts) => counts.reduce((a, b) => a + b, 0) || 1;
  const bins = (counts) => {
    const total = sum(counts);
    return counts.map((count, index) => ({
      from: first + index * width, to: first + (index + 1) * width, share: count / total / width,
    }));
  };
  const floatTotal = sum(floats);
  const perStep = Math.round(1 / width);
  const start = Math.round((lowest - 0.5 - first) / width);
  const onLevels = levels.map((count, index) => {
    const here = floats.slice(start + index * perStep, start + (index + 1) * perStep);
    const place = lowest + index;
    return {
      place, left: place - 0.5, right: place + 0.5, share: count / sum(levels), level: digits(place),
      weights: `${grouped(count)} (${percent(count / sum(levels))})`, near: percent(here.reduce((a, b) => a + b, 0) / floatTotal),
      label: `level ${digits(place)}: ${grouped(count)} weights`,
    };
  });
  return { float: bins(floats), trained: trained === null ? null : bins(trained), levels: onLevels };
}

function histogramChart(layer, width) {
  const rows = histogramRows(layer);
  const { first, levels } = layer.histogram;
  const step = (width - AXIS_WIDTH) / (-2 * first);
  const x = { type: "quantitative", scale: { domain: [first, -first], nice: false }, title: "weight, in steps of its channel" };
  const y = { field: "share", type: "quantitative", axis: { format: "~%", tickCount: 4 } };
  const layers = [
    {
      data: { values: rows.float },
      mark: { type: "bar", binSpacing: 0, color: "var(--before)", aria: false },
      encoding: { x: { field: "from", bin: { binned: true }, ...x }, x2: { field: "to" }, y },
    },
    {
      data: { values: rows.levels },
      mark: { type: "rule", strokeWidth: Math.min(14, Math.max(1.2, 0.3 * step)), color: `var(--b${layer.bits})`, aria: false },
      encoding: { x: { field: "place", ...x }, y, y2: { datum: 0 } },
    },
  ];
  if (rows.trained) {
    layers.push({
      data: { values: rows.trained },
      mark: { type: "line", interpolate: "step-after", color: "var(--orange)", strokeWidth: 1.5, aria: false },
      encoding: { x: { field: "from", ...x }, y },
    });
  }
  layers.push({
    data: { values: rows.levels },
    mark: { type: "rect", fill: "transparent" },
    encoding: {
      x: { field: "left", ...x }, x2: { field: "right" }, description: { field: "label" },
      tooltip: [
        { field: "level", title: "level" }, { field: "weights", title: "weights on it" },
        { field: "near", title: "float weights nearest to it" },
      ],
    },
  });
  return frame(width, 240, "share of the weights per step", `Weights of ${layer.name} and its ${levels.length} levels`, { layer: layers });
}

function ladderChart(layer, width) {
  const rows = BITS.filter((bits) => layer.divergence[bits] > 0).map((bits) => ({
    bits, value: layer.divergence[bits], chosen: bits === layer.bits, shown: digits(layer.divergence[bits]),
    label: `${bits} bits: D ${digits(layer.divergence[bits])}`,
  }));
  const x = { field: "bits", type: "ordinal", scale: { domain: BITS }, axis: { title: "bits", labelAngle: 0 } };
  const y = { field: "value", type: "quantitative", scale: { type: "log" }, axis: LOG_AXIS };
  return frame(width, 220, "D, nats per weight", `Divergence of ${layer.name} by bitwidth`, {
    data: { values: rows }, encoding: { x, y },
    layer: [
      { mark: { type: "line", color: "var(--line)", aria: false } },
      {
        mark: { type: "circle", opacity: 1 },
        encoding: {
          size: { condition: { test: "datum.chosen", value: 190 }, value: 60 }, description: { field: "label" },
          color: { field: "bits", type: "ordinal", scale: BIT_COLOURS, legend: null },
          tooltip: [{ field: "bits" }, { field: "shown", title: "D" }],
        },
      },
    ],
  });
}

// -- the search --------------------------------------------------------------------------------------------------

const CROSS = "M-1,-1L1,1M1,-1L-1,1";

/** Stages of a search as bands: first and last step, and a word that fits. */
function stageBands(run, width) {
  const bands = [];
  for (const step of run.steps) {
    const last = bands[bands.length - 1];
    if (last && last.stage === step.stage) last.to = step.step + 0.5;
    else bands.push({ stage: step.stage, from: step.step - 0.5, to: step.step + 0.5, odd: bands.length % 2 });
  }
  const pixel = (width - AXIS_WIDTH) / Math.max(1, run.steps.length);
  const words = { phase1: ["phase 1", "1"], phase2: ["phase 2", "2"], final: ["final training", "final", "f"] };
  for (const band of bands) {
    const room = (band.to - band.from) * pixel;
    band.word = (words[band.stage] ?? [band.stage, ""]).find((word) => 6.2 * word.length <= room) ?? "";
    band.middle = (band.from + band.to) / 2;
  }
  return bands;
}

/** Scores that differ from the float network's by no more than chance. */
function noiseBand(floats, noise, factor, y, text) {
  return {
    data: { values: floats.map((value) => ({ low: (value - 2 * noise) * factor, high: (value + 2 * noise) * factor })) },
    mark: { type: "rect", color: "var(--noise)", opacity: 0.5, tooltip: { content: "data" }, description: "within chance of the float network" },
    encoding: {
      y: { field: "low", ...y }, y2: { field: "high" },
      tooltip: { value: `within chance of the float network: ± ${text(2 * noise)}, two standard errors` },
    },
  };
}

/** What both charts of the search share: bands, zone, limit, path, steps. */
function stepsFrame(run, width, height, title, parts) {
  const { values, factor, limit, zone, reference, format, bottom, zero } = parts;
  const scaled = (value) => (Number.isFinite(value) ? value * factor : null);
  const rows = run.steps.map((step, index) => ({
    step: step.step, value: scaled(values[index]), accepted: step.accepted ? "accepted" : "rejected", move: step.move,
    changed: step.changed, bits: digits(step.mean_bits), shown: parts.text(values[index]), score: score(step.accuracy, run),
    divergence: digits(step.divergence), label: `step ${step.step}, ${step.move}, ${step.accepted ? "accepted" : "rejected"}: ${parts.text(values[index])}`,
  }));
  const first = run.steps[0].step, last = run.steps[run.steps.length - 1].step;
  const x = {
    type: "quantitative", scale: { domain: [first - 0.5, last + 0.5], nice: false },
    axis: bottom ? { title: "step", format: "d", tickMinStep: 1, grid: false, domain: true } : { labels: false, ticks: false, grid: false, title: null, domain: false },
  };
  const y = { type: "quantitative", scale: { zero }, axis: { tickCount: 4, ...(format ? { format } : {}) } };
  const bands = stageBands(run, width);
  const layers = [{
    data: { values: bands.filter((band) => band.odd) },
    mark: { type: "rect", color: "var(--band)", aria: false },
    encoding: { x: { field: "from", ...x }, x2: { field: "to" } },
  }];
  if (!bottom) {
    layers.push({
      data: { values: bands },
      mark: { type: "text", y: -4, baseline: "bottom", aria: false },
      encoding: { x: { field: "middle", ...x }, text: { field: "word" } },
    });
  }
  const phase1 = run.steps.filter((step) => step.move === "cluster").map((step) => step.step);
  if (zone && phase1.length) {
    layers.push({
      data: { values: [{ from: Math.min(...phase1) - 0.5, to: Math.max(...phase1) + 0.5, low: scaled(zone[0]), high: scaled(zone[1]) }] },
      mark: { type: "rect", color: "var(--zone)", opacity: 0.45, tooltip: { content: "data" }, description: "buffer zone of phase 1" },
      encoding: {
        x: { field: "from", ...x }, x2: { field: "to" }, y: { field: "low", ...y }, y2: { field: "high" },
        tooltip: { value: `buffer zone of phase 1: ${parts.text(zone[0])} to ${parts.text(zone[1])}` },
      },
    });
  }
  const rule = (value, colour, name) => layers.push({
    data: { values: [{ value: scaled(value) }] },
    mark: { type: "rule", color: colour, strokeDash: [5, 4], strokeWidth: 1.5, description: `${name} ${parts.text(value)}` },
    encoding: { y: { field: "value", ...y }, tooltip: { value: `${name} ${parts.text(value)}` } },
  });
  if (Number.isFinite(parts.noise) && parts.noise > 0 && Number.isFinite(reference)) {
    layers.push(noiseBand([reference], parts.noise, factor, y, parts.text));
  }
  if (Number.isFinite(reference)) rule(reference, "var(--muted)", "float network");
  if (Number.isFinite(limit)) rule(limit, "var(--limit)", parts.limitName);
  const point = { x: { field: "step", ...x }, y: { field: "value", ...y } };
  const tooltip = [
    { field: "step" }, { field: "move" }, { field: "accepted", title: "verdict" }, { field: "shown", title: parts.name },
    { field: "score", title: "score" }, { field: "divergence", title: "divergence of outputs" }, { field: "bits", title: "mean bits" },
    { field: "changed", title: "layers changed" },
  ].filter((item) => parts.name !== "score" || item.field !== "shown");
  const description = { field: "label" };
  const known = rows.filter((row) => row.value !== null);
  const size = Math.min(60, Math.max(12, 0.6 * ((width - AXIS_WIDTH) / rows.length) ** 2));
  const accepted = known.filter((row) => row.accepted === "accepted"), rejected = known.filter((row) => row.accepted !== "accepted");
  if (accepted.length) {
    layers.push(
      { data: { values: accepted }, mark: { type: "line", color: "var(--accent)", strokeWidth: 1.5, aria: false }, encoding: point },
      {
        data: { values: accepted }, mark: { type: "circle", color: "var(--accent)", opacity: 1, size },
        encoding: { ...point, tooltip, description },
      },
    );
  }
  if (rejected.length) {
    layers.push({
      data: { values: rejected },
      mark: { type: "point", shape: CROSS, stroke: "var(--orange)", strokeWidth: size < 30 ? 1.4 : 2.2, filled: false, opacity: 1, size: 0.75 * size },
      encoding: { ...point, tooltip, description },
    });
  }
  return frame(width, height, { text: title, offset: bottom ? 6 : 20 }, title, { layer: layers });
}

function stepsCostChart(run, width, measure) {
  const { scale, title, resource, field } = MEASURES[measure];
  const counted = run.size_counts === "weights" ? "weight_bytes" : "bytes";
  const limited = resource !== "size_bytes" || measure === counted;
  const limit = limited ? run.limits[resource] : undefined;
  const values = run.steps.map((step) => step.cost[field]);
  const { factor, unit } = unitOf(scale, [...values, limit]);
  return stepsFrame(run, width, 150, `${title}${unit ? `, ${unit}` : ""}`, {
    values, factor: 1 / factor, limit, limitName: "limit", name: title, text: (value) => quantity(value, scale), zero: false, bottom: false,
    zone: run.zones && Number.isFinite(limit) ? [limit, limit * (1 + run.zones.cost)] : null,
  });
}

function stepsScoreChart(run, width) {
  const floor = run.limits.accuracy;
  return stepsFrame(run, width, 190, `score (${run.metric})${run.percent ? ", %" : ""}`, {
    values: run.steps.map((step) => step.accuracy), factor: run.percent ? 100 : 1, limit: floor, limitName: "floor", name: "score",
    text: (value) => score(value, run), zero: false, bottom: true, reference: run.float_scores.validation,
    noise: run.noise?.validation,
    zone: run.zones && Number.isFinite(floor) ? [floor - run.zones.accuracy * Math.abs(floor), floor] : null,
  });
}

// -- several runs ------------------------------------------------------------------------------------------------

const FRONTIER_HEIGHT = 320;

/** A domain with a margin about some values. */
function around(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const margin = 0.07 * (high - low || Math.abs(high) || 1);
  return [low - margin, high + margin];
}

/** The points whose name can stand above them, and meets no other point's name. */
function withRoom(rows, place, width) {
  const taken = [];
  return rows.filter((row) => {
    const [x, y] = place(row);
    const half = 3.4 * row.run.length;
    const free = x - half > -AXIS_WIDTH && x + half < width
      && taken.every(([other, above, reach]) => Math.abs(other - x) > half + reach || Math.abs(above - y) > 16);
    if (free) taken.push([x, y, half]);
    return free;
  });
}

/** The points that no other one matches in both costs and in score while it is better in one of them. */
function unbeaten(rows) {
  const better = (a, b) => a.x <= b.x && a.y <= b.y && a.value >= b.value && (a.x < b.x || a.y < b.y || a.value > b.value);
  return new Set(rows.filter((row) => !rows.some((other) => better(other, row))));
}

/** Two costs against each other, the score in the colour and beside each point. */
function twoCostChart(runs, selected, width, measures, kind) {
  const [one, two] = measures.map((name) => MEASURES[name]);
  const shown = runs.map((run, index) => ({ run, index })).filter(({ run }) => run.finished);
  const [across, up] = [one, two].map(({ scale, field }) => unitOf(scale, shown.map(({ run }) => run.cost[field])));
  const share = shown.every(({ run }) => run.percent) ? 100 : 1;
  const dots = shown.map(({ run, index }) => ({
    index, run: run.label, verdict: run.status, x: run.cost[one.field] / across.factor, y: run.cost[two.field] / up.factor,
    value: Number.isFinite(run.scores[kind]) ? run.scores[kind] * share : null, score: score(run.scores[kind], run),
    first: quantity(run.cost[one.field], one.scale), second: quantity(run.cost[two.field], two.scale), bits: digits(run.mean_bits),
    label: `run ${run.label}: ${quantity(run.cost[one.field], one.scale)}, ${quantity(run.cost[two.field], two.scale)}, ${score(run.scores[kind], run)}`,
  })).filter((row) => Number.isFinite(row.x) && Number.isFinite(row.y) && row.value !== null);
  const front = unbeaten(dots);
  dots.forEach((row) => { row.front = front.has(row); });
  const axis = (field, { title }, { unit }) => ({
    field, type: "quantitative", scale: { domain: around(dots.map((row) => row[field])), nice: false },
    axis: { title: `${title}${unit ? `, ${unit}` : ""}`, grid: true, tickCount: 6 },
  });
  const x = axis("x", one, across), y = { ...axis("y", two, up) };
  y.axis = { tickCount: 6 };
  const layers = [{
    data: { values: dots },
    mark: { type: "circle", size: 170, cursor: "pointer", strokeWidth: 2.5 },
    encoding: {
      x, y, description: { field: "label" },
      tooltip: [{ field: "run" }, { field: "first", title: one.title }, { field: "second", title: two.title }, { field: "score", title: `score, ${kind}` },
        { field: "bits", title: "mean bits" }, { field: "verdict", title: "budget" }],
      fill: { field: "value", type: "quantitative", scale: { scheme: "viridis", zero: false }, legend: { title: `score${share === 100 ? ", %" : ""}` } },
      opacity: { condition: { test: "datum.front", value: 1 }, value: 0.35 },
      stroke: { condition: { test: "datum.index === selected", value: "var(--ink)" }, value: "var(--card)" },
    },
  }, {
    data: { values: dots.filter((row) => row.front) }, mark: { type: "text", dy: -15, aria: false },
    encoding: { x, y, text: { field: "score" } },
  }];
  return frame(width, FRONTIER_HEIGHT, `${two.title}${up.unit ? `, ${up.unit}` : ""}`, `${one.title}, ${two.title} and score of every run`, {
    params: [{ name: "selected", value: selected }], layer: layers,
  });
}

function frontierChart(runs, selected, width, measure, kind, beside = "uniform control of") {
  const { scale, title, field } = MEASURES[measure];
  const shown = runs.map((run, index) => ({ run, index })).filter(({ run }) => run.finished);
  const { factor, unit } = unitOf(scale, shown.map(({ run }) => run.cost[field]));
  const share = shown.every(({ run }) => run.percent) ? 100 : 1;
  const points = [], controls = [];
  for (const { run, index } of shown) {
    const point = (name, cost, scores, extra) => ({
      index, run: run.label, name, x: Number.isFinite(cost[field]) ? cost[field] / factor : null,
      y: Number.isFinite(scores[kind]) ? scores[kind] * share : null, cost: quantity(cost[field], scale), score: score(scores[kind], run),
      label: `${name} ${run.label}: ${quantity(cost[field], scale)}, ${score(scores[kind], run)}`, ...extra,
    });
    points.push(point("run", run.cost, run.scores, { verdict: run.status, front: run.front.includes(measure), bits: digits(run.mean_bits) }));
    if (run.control) controls.push(point(beside, run.control.cost, run.control.scores, { bits: [...new Set(Object.values(run.control.weights))].sort().join("/") }));
  }
  const there = (rows) => rows.filter((row) => row.x !== null && row.y !== null);
  const floats = [...new Set(shown.map(({ run }) => run.float_scores[kind]).filter(Number.isFinite))];
  const drawn = [...there(points), ...there(controls)];
  const across = around(drawn.map((row) => row.x)), up = around([...drawn.map((row) => row.y), ...floats.map((value) => value * share)]);
  const x = { field: "x", type: "quantitative", scale: { domain: across, nice: false }, axis: { title: `${title}${unit ? `, ${unit}` : ""}`, grid: true, tickCount: 6 } };
  const y = { field: "y", type: "quantitative", scale: { domain: up, nice: false }, axis: { tickCount: 6 } };
  const tooltip = [{ field: "run" }, { field: "cost", title }, { field: "score", title: `score, ${kind}` }, { field: "bits", title: "mean bits" }];
  const dots = there(points);
  const noise = Math.max(0, ...shown.map(({ run }) => run.noise?.[kind]).filter(Number.isFinite));
  const layers = [
    ...(floats.length && noise > 0 ? [noiseBand(floats, noise, share, y, (value) => score(value, shown[0].run))] : []),
    ...(floats.length ? [{
      data: { values: floats.map((value) => ({ y: value * share, text: `float network ${score(value, shown[0].run)}` })) },
      mark: { type: "rule", color: "var(--muted)", strokeDash: [5, 4], strokeWidth: 1.5, aria: false }, encoding: { y, tooltip: { field: "text" } },
    }] : []),
    {
      data: { values: dots.filter((row) => row.front) },
      mark: { type: "line", color: "var(--accent)", strokeWidth: 2, opacity: 0.7, aria: false }, encoding: { x, y, order: { field: "x" } },
    },
    ...(there(controls).length ? [{
      data: { values: there(controls) },
      mark: { type: "point", shape: "diamond", stroke: "var(--orange)", fill: "var(--card)", strokeWidth: 2, size: 90, opacity: 1, cursor: "pointer" },
      encoding: { x, y, tooltip: [{ field: "run", title: beside }, tooltip[1], tooltip[2], { field: "bits" }], description: { field: "label" } },
    }] : []),
    {
      data: { values: dots },
      mark: { type: "circle", opacity: 1, size: 130, cursor: "pointer", strokeWidth: 2.5 },
      encoding: {
        x, y, tooltip: [...tooltip, { field: "verdict", title: "budget" }], description: { field: "label" },
        fill: { condition: { test: "datum.verdict === 'met'", value: "var(--accent)" }, value: "var(--card)" },
        stroke: { condition: { test: "datum.index === selected", value: "var(--ink)" }, value: "var(--accent)" },
      },
    },
  ];
  const place = (row) => [
    ((row.x - across[0]) / (across[1] - across[0])) * (width - AXIS_WIDTH), ((up[1] - row.y) / (up[1] - up[0])) * FRONTIER_HEIGHT,
  ];
  const named = withRoom(dots, place, width - AXIS_WIDTH);
  if (named.length) {
    layers.push({ data: { values: named }, mark: { type: "text", dy: -14, aria: false }, encoding: { x, y, text: { field: "run" } } });
  }
  return frame(width, FRONTIER_HEIGHT, `score, ${kind}${share === 100 ? ", %" : ""}`, `${title} and score of every run`, {
    params: [{ name: "selected", value: selected }], layer: layers,
  });
}

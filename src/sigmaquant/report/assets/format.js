"use strict";
// Numbers for people, and units that suit a whole chart.

const SCALES = {
  bytes: [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"], [1, "B"]],
  energy: [[1e12, "J"], [1e9, "mJ"], [1e6, "µJ"], [1e3, "nJ"], [1, "pJ"]],
  time: [[1e3, "s"], [1, "ms"], [1e-3, "µs"], [1e-6, "ns"]],
  count: [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]],
};

// Every cost: its words, its scale, the name of its limit, and where it stands in a network's total.
const MEASURES = {
  bytes: { title: "bytes, everything stored", scale: "bytes", resource: "size_bytes", field: "total_bytes" },
  weight_bytes: { title: "bytes of packed weights", scale: "bytes", resource: "size_bytes", field: "weight_bytes" },
  bops: { title: "bit operations", scale: "count", resource: "bops", field: "bops" },
  energy_pj: { title: "energy", scale: "energy", resource: "energy_pj", field: "energy_pj", device: true },
  cycles: { title: "cycles", scale: "count", resource: "cycles", field: "cycles", device: true },
  latency_ms: { title: "latency", scale: "time", resource: "latency_ms", field: "latency_ms", device: true },
  ram_bytes: { title: "activation memory", scale: "bytes", resource: "ram_bytes", field: "ram_bytes" },
};

/** The factor and the unit in which the largest of some values reads well. */
function unitOf(scale, values) {
  const largest = Math.max(0, ...values.filter(Number.isFinite));
  const table = SCALES[scale];
  const [factor, unit] = table.find(([size]) => largest >= size) ?? table[table.length - 1];
  return { factor, unit };
}

/** One quantity with its unit. */
function quantity(value, scale) {
  if (!Number.isFinite(value)) return "–";
  const { factor, unit } = unitOf(scale, [Math.abs(value)]);
  return `${Number((value / factor).toPrecision(4))} ${unit}`.trim();
}

/** Four significant digits. */
function digits(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "–";
}

/** A score, in percent where the metric is a share. */
function score(value, run) {
  if (!Number.isFinite(value)) return "–";
  return run.percent ? `${(100 * value).toFixed(2)} %` : value.toFixed(4);
}

function percent(share) {
  const value = 100 * share;
  return `${value !== 0 && Math.abs(value) < 0.1 ? Number(value.toPrecision(2)) : value.toFixed(1)} %`;
}

function grouped(value) {
  return Number.isFinite(value) ? value.toLocaleString("en-GB") : "–";
}

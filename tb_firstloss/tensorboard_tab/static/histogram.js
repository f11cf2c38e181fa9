// Histograms of per-example losses, on an axis that all runs share.

import { element, svg, text } from "./dom.js";

// One axis for all rows makes their pictures comparable. A run far off would squeeze all others to
// lines, so the axis ends three typical widths beyond the typical run, and a red bar at either end
// stands for what lies beyond.
export function sharedAxis(rows) {
  const ranges = rows.filter((row) => row.points.length);
  if (!ranges.length) return null;
  const lowerMedian = (values) => values.sort((x, y) => x - y)[(values.length - 1) >> 1];
  const lows = ranges.map((row) => row.min);
  const highs = ranges.map((row) => row.max);
  const [lowest, highest] = [lows.reduce((x, y) => Math.min(x, y)), highs.reduce((x, y) => Math.max(x, y))];
  const [low, high] = [lowerMedian(lows), lowerMedian(highs)];
  const width = high - low || Math.abs(high) || 1;
  return padded(Math.max(lowest, low - 3 * width), Math.min(highest, high + 3 * width));
}

function padded(low, high) {
  if (low < high) return [low, high];
  const half = Math.abs(low) / 10 || 0.5;
  return [low - half, high + half];
}

// Returns the share of the values in each bin, and beyond either end.
function binShares(points, [low, high], bins) {
  const shares = new Array(bins).fill(0);
  let [below, above] = [0, 0];
  const total = points.reduce((sum, [, count]) => sum + count, 0);
  const slack = (high - low) * 1e-5; // values are rounded to six digits
  for (const [value, count] of points) {
    if (value < low - slack) below += count / total;
    else if (value > high + slack) above += count / total;
    else {
      const bin = Math.floor(((value - low) / (high - low)) * bins);
      shares[Math.min(Math.max(bin, 0), bins - 1)] += count / total;
    }
  }
  return { shares, below, above };
}

function barPath(shares, top, width, height) {
  const step = width / shares.length;
  const bar = (share, i) => `M${i * step} ${height}v${-Math.max((share / top) * height, 1)}h${step - 0.5}V${height}z`;
  return shares.map((share, i) => (share ? bar(share, i) : "")).join("");
}

function outlinePath(shares, top, width, height) {
  const step = width / shares.length;
  return `M0 ${height}${shares.map((share) => `V${height - (share / top) * height}h${step}`).join("")}V${height}`;
}

// Returns how the values of the chosen row at a place are drawn, and marked elsewhere.
export const look = (i) => (i < 2 ? { class: "ab"[i] } : { class: "b", style: `--b: hsl(${(i * 137) % 360} 65% 50%)` });

// Draws one row's points as bars, and those of the others as lines over them.
export function histogram(rows, axis, { width, height, bins }) {
  const [low, high] = axis;
  if (!Number.isFinite(high - low)) return null;
  const binned = rows.map((row) => binShares(row.points, axis, bins));
  const top = Math.max(...binned.map(({ shares, below, above }) => Math.max(...shares, below, above)));
  const parts = [svg("line", { x1: 0, x2: width, y1: height, y2: height })];
  const descriptions = [];
  binned.forEach(({ shares, below, above }, i) => {
    const d = (i ? outlinePath : barPath)(shares, top, width, height);
    parts.push(svg("path", { ...look(i), d }));
    for (const [share, x] of [[below, -5], [above, width + 1]]) {
      const bar = Math.max((share / top) * height, 2);
      if (share) parts.push(svg("rect", { class: "beyond", x, y: height - bar, width: 4, height: bar }));
    }
    const further = below + above ? ` (${((below + above) * 100).toFixed(0)} % beyond the axis)` : "";
    descriptions.push(`${text(rows[i].min)} to ${text(rows[i].max)}${further}`);
  });
  const { expected } = rows[0];
  if (expected >= low && expected <= high && expected != null) {
    const x = ((expected - low) / (high - low)) * width;
    parts.push(svg("line", { class: "expected", x1: x, x2: x, y1: -1, y2: height }));
    descriptions.push(`expected ${text(expected)}`);
  }
  const label = `per-example losses from ${descriptions.join(", ")}`;
  return svg("svg", { width, height: height + 1, role: "img", "aria-label": label }, svg("title", {}, label), ...parts);
}

export const axisEnds = ([low, high], width = 180) =>
  element("div", { class: "axis", style: `width: ${width}px` }, element("span", {}, tick(low)), element("span", {}, tick(high)));

const tick = (value) => String(Number(value.toPrecision(4)));

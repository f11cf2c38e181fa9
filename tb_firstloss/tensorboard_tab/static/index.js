// The page of the "First loss" tab: one table of all recordings, and what one or two chosen ones
// hold. No library, no build step, no request but to the TensorBoard that served it. Names come
// from other people's files, so text only ever enters the page as text nodes and attributes.

import { histogram, sharedAxis, text } from "./histogram.js";

const ROOT = new URL("../../../", import.meta.url); // this is <ROOT>data/plugin/tb_firstloss/index.js
const POLL_MILLIS = { empty: 2000, filled: 10000 };
const ROWS_PER_FRAME = 100;

const COLUMNS = [
  { id: "run", title: "Run", help: "Run directory, relative to the logdir" },
  { id: "loss", title: "Loss", help: "What the optimizer differentiates" },
  { id: "expected", title: "Expected", help: "The expectation given when it was recorded" },
  { id: "count", title: "Count", help: "Number of per-example losses" },
  { id: "mean", title: "Mean", help: "Mean of the finite per-example losses" },
  { id: "std", title: "Std", help: "Standard deviation of the finite per-example losses" },
  { id: "min", title: "Min", help: "Smallest finite per-example loss" },
  { id: "max", title: "Max", help: "Largest finite per-example loss" },
  { id: "nonfinite", title: "Non-finite", help: "Number of NaN and infinite per-example losses" },
];
const TOLERANCE = 0.1; // the mean may be this far from the expectation, relatively

const state = {
  rows: [], // one for each output of each recording
  shown: 0, // how many of them the filters let through
  version: null,
  chosen: [], // ids of at most two rows
  sort: { id: "run", descending: false },
  filter: "",
  output: "", // "" for all
};
const page = {}; // the elements that change
const drawn = new Map(); // row id → its table row
const byName = new Intl.Collator(undefined, { numeric: true });

// ---- The document ----

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function buildPage() {
  document.documentElement.lang = "en";
  document.title = "First loss";
  const style = new URL("style.css", import.meta.url).href;
  document.head.append(element("link", { rel: "stylesheet", href: style }));
  page.filter = element("input", {
    type: "search",
    placeholder: "regular expression",
    oninput: () => ((state.filter = page.filter.value), showTable()),
  });
  page.output = element("select", {
    onchange: () => ((state.output = page.output.value), showTable()),
  });
  page.outputField = element("label", { class: "field", hidden: true }, "Output", page.output);
  page.status = element("span", { class: "status", role: "status" });
  page.headings = element("tr");
  page.body = element("tbody");
  page.table = element("table", {}, element("thead", {}, page.headings), page.body);
  page.main = element("main");
  page.details = element("aside", { "aria-label": "Chosen runs", tabindex: "-1" });
  document.body.append(
    element(
      "header",
      {},
      element("h1", {}, "First loss"),
      element("label", { class: "field" }, "Filter runs", page.filter),
      page.outputField,
      page.status,
    ),
    page.main,
    page.details,
  );
}

// TensorBoard tells a plugin's page nothing about the theme; it marks its own body.
function followTheme() {
  const body = window.parent.document.body;
  const adopt = () =>
    document.documentElement.classList.toggle("dark", body.classList.contains("dark-mode"));
  new MutationObserver(adopt).observe(body, { attributes: true, attributeFilter: ["class"] });
  adopt();
}

// ---- The data ----

function toRows(recordings) {
  return recordings.flatMap((recording) => {
    const { run, problem } = recording;
    if (problem != null) return [{ id: JSON.stringify([run]), run, problem, points: [] }];
    const outputs = recording.outputs.length ? recording.outputs : [null];
    return outputs.map((output) => toRow(recording, output));
  });
}

function toRow(recording, output) {
  const number = (value) => (value == null ? null : Number(value));
  const counts = output?.counts ?? output?.values?.map(() => 1);
  return {
    id: JSON.stringify([recording.run, output?.name]),
    run: recording.run,
    output: output?.name ?? null,
    several: recording.outputs.length > 1,
    recording,
    loss: number(recording.loss),
    expected: number(recording.expected),
    count: output?.count ?? null,
    mean: number(output?.mean),
    std: number(output?.std),
    min: number(output?.min),
    max: number(output?.max),
    nonfinite: output?.nonfinite_count ?? null,
    points: output?.values?.map((value, i) => [value, counts[i]]) ?? [],
    largest: output?.largest ?? [],
    kind: output?.kind ?? null,
  };
}

// Tells how far off a row is in words, and whether that is far. An expectation is about the mean
// over examples, since regularisers shift the loss; it says nothing of one of several outputs.
function judge(row) {
  if (row.expected == null || row.several) return null;
  const value = row.mean ?? row.loss;
  if (row.nonfinite || !Number.isFinite(value)) return { ok: false, why: "there are values that are not finite" };
  const off = value - row.expected;
  const percent = row.expected ? `, ${((100 * off) / Math.abs(row.expected)).toFixed(1)} %` : "";
  const why = `the ${row.mean == null ? "loss" : "mean"} is off by ${text(off)}${percent}`;
  return { ok: Math.abs(off) <= TOLERANCE * Math.abs(row.expected), why };
}

function compareRows(a, b) {
  if (a.problem || b.problem) return Boolean(a.problem) - Boolean(b.problem) || byRun(a, b);
  const { id, descending } = state.sort;
  const sign = descending ? -1 : 1;
  if (id === "run") return sign * byRun(a, b);
  const [x, y] = [a[id], b[id]];
  const missing = (v) => v == null || Number.isNaN(v);
  if (missing(x) || missing(y)) return missing(x) - missing(y) || byRun(a, b); // always last
  return sign * (x > y ? 1 : x < y ? -1 : 0) || byRun(a, b);
}

const byRun = (a, b) => byName.compare(a.run, b.run) || byName.compare(a.output ?? "", b.output ?? "");

function visibleRows() {
  let matches = (run) => run.includes(state.filter);
  let valid = true;
  try {
    const pattern = new RegExp(state.filter, "i");
    matches = (run) => pattern.test(run);
  } catch {
    valid = false; // half-typed: taken as plain text
  }
  page.filter.setAttribute("aria-invalid", String(!valid));
  return state.rows
    .filter((row) => matches(row.run))
    .filter((row) => !state.output || row.problem || row.output === state.output)
    .sort(compareRows);
}

// ---- The table ----

let drawing = 0; // the latest drawing stops the ones before it

function showTable() {
  const rows = visibleRows();
  const axis = sharedAxis(rows);
  showHeadings(axis);
  const mine = ++drawing;
  const focused = document.activeElement?.closest?.("tr")?.dataset.row;
  const draw = (start) => {
    if (mine !== drawing) return;
    const next = rows.slice(start, start + ROWS_PER_FRAME).map((row) => tableRow(row, axis));
    if (start) page.body.append(...next);
    else page.body.replaceChildren(...next);
    if (focused !== undefined) drawn.get(focused)?.querySelector("input")?.focus({ preventScroll: true });
    if (start + ROWS_PER_FRAME < rows.length) requestAnimationFrame(() => draw(start + ROWS_PER_FRAME));
  };
  draw(0);
  state.shown = rows.length;
  showCount();
}

function showCount() {
  const { shown, rows } = state;
  const all = `${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
  page.status.textContent = shown === rows.length ? all : `${shown} of ${all}`;
}

function showHeadings(axis) {
  const focused = document.activeElement?.dataset?.column;
  const cells = COLUMNS.map(({ id, title, help }) => {
    const { descending } = state.sort;
    const sorted = state.sort.id === id ? (descending ? "descending" : "ascending") : null;
    const arrow = sorted ? (descending ? " ▾" : " ▴") : "";
    const button = element("button", { title: help, "data-column": id, onclick: () => sortBy(id) }, title + arrow);
    return element("th", { scope: "col", class: id === "run" ? "run" : null, "aria-sort": sorted }, button);
  });
  const histogramTitle = "Histogram of the per-example losses; one axis for all runs";
  cells.push(element("th", { scope: "col", title: histogramTitle }, axis ? axisEnds(axis) : "Histogram"));
  page.headings.replaceChildren(...cells);
  if (focused) page.headings.querySelector(`[data-column="${focused}"]`)?.focus();
}

function sortBy(id) {
  const again = state.sort.id === id;
  state.sort = { id, descending: again ? !state.sort.descending : id !== "run" };
  showTable();
}

function tableRow(row, axis) {
  const scale = String(axis);
  const old = drawn.get(row.id);
  if (old?.source === row && old.dataset.scale === scale) return old;
  const box = element("input", { type: "checkbox", onchange: () => choose(row.id) });
  box.checked = state.chosen.includes(row.id);
  const name = element("span", {}, row.run);
  if (row.several) name.append(element("span", { class: "output" }, `: ${row.output}`));
  const first = element("td", { class: "run" }, element("label", {}, row.problem ? null : box, name));
  const node = element("tr", { "data-row": row.id, "data-scale": scale }, first);
  node.classList.toggle("chosen", box.checked);
  if (row.problem) {
    node.append(element("td", { class: "problem bad", colspan: COLUMNS.length }, row.problem));
  } else {
    node.append(...COLUMNS.slice(1).map(({ id }) => cell(row, id)));
    const picture = axis && row.points.length ? histogram([row], axis, { width: 180, height: 22, bins: 36 }) : null;
    node.append(element("td", { class: "histogram" }, picture));
  }
  node.source = row;
  drawn.set(row.id, node);
  return node;
}

function cell(row, id) {
  const value = row[id];
  const verdict = id === "expected" && judge(row);
  if (verdict) {
    const { ok, why } = verdict;
    return element("td", { class: ok ? "good" : "bad", title: why }, `${text(value)} ${ok ? "✓" : "✗"}`);
  }
  if (id === "loss" && value == null && row.recording.loss_kind) return element("td", {}, row.recording.loss_kind);
  const bad = (value != null && !Number.isFinite(value)) || (id === "nonfinite" && value > 0);
  return element("td", { class: bad ? "bad" : null, title: value == null ? null : String(value) }, text(value));
}

// ---- What is chosen ----

function choose(id) {
  const without = state.chosen.filter((other) => other !== id);
  state.chosen = without.length < state.chosen.length ? without : [...without, id].slice(-2);
  for (const [rowId, node] of drawn) {
    const chosen = state.chosen.includes(rowId);
    node.classList.toggle("chosen", chosen);
    const box = node.querySelector("input");
    if (box) box.checked = chosen;
  }
  showDetails();
}

let showing = 0;

async function showDetails() {
  const rows = state.chosen.map((id) => state.rows.find((row) => row.id === id)).filter(Boolean);
  const mine = ++showing;
  const runs = rows.map((row, i) => describeRun(row, rows.length > 1 ? "ab"[i] : null));
  const largest = rows.length === 1 ? describeLargest(rows[0]) : null;
  const pictures = rows.length ? describeValues(rows) : null;
  const pair = rows.length === 2 ? describePair(rows) : null;
  const parts = pair ? [pair, pictures, element("div", {}, ...runs)] : [...runs, pictures, largest];
  page.details.replaceChildren(...parts.filter(Boolean));
  if (!rows.length) return;
  const [graphs, profiles] = await Promise.all([
    getJson("data/plugin/graphs/info").catch(() => ({})),
    getJson("data/plugin/profile/runs").catch(() => []), // the profile plugin may not be installed
  ]);
  if (mine !== showing) return;
  rows.forEach((row, i) => runs[i].querySelector("nav").replaceChildren(...links(row.run, graphs, profiles)));
}

function describeRun(row, key) {
  const { recording } = row;
  const facts = [
    ["Step", String(recording.step)],
    ["Recorded", new Date(Number(recording.wall_time) * 1000).toLocaleString()],
    ["Values", row.kind ?? (row.count == null ? "a scalar loss only" : "too large to be shown here")],
    ["Digest", element("code", { title: recording.digest }, recording.digest.slice(0, 16) + "…")],
  ];
  const name = row.several ? `${row.run}: ${row.output}` : row.run;
  const heading = element("h2", {}, key && element("span", { class: `key ${key}` }), name);
  const nav = element("nav", { "aria-label": "The run in other tabs" });
  return element("section", { "aria-label": name }, heading, nav, table(facts));
}

function describeLargest(row) {
  if (!row.largest.length) return null;
  const rows = row.largest.map(({ index, value }) => [`[${index.join(", ")}]`, text(Number(value))]);
  const heading = element("h2", {}, "Largest per-example losses");
  return element("section", { class: "largest" }, heading, table(rows, ["Index", "Loss"]));
}

function describeValues(rows) {
  const axis = sharedAxis(rows);
  const size = Math.max(...rows.map((row) => row.count ?? 0));
  const bins = Math.min(Math.max(Math.ceil(2 * Math.sqrt(size)), 8), 42);
  const picture = axis && histogram(rows, axis, { width: 420, height: 120, bins });
  if (!picture) return null;
  return element("section", { class: "values" }, element("h2", {}, "Per-example losses"), picture, axisEnds(axis, 420));
}

function describePair(rows) {
  const [a, b] = rows;
  const pairs = COLUMNS.filter(({ id }) => typeof a[id] === "number" && typeof b[id] === "number" && id !== "expected");
  const body = pairs.map(({ id, title }) => [title, text(a[id]), text(b[id]), text(b[id] - a[id])]);
  const verdict = element("p", { role: "status" }, "Comparing the values …");
  compareValues(a, b).then(
    (parts) => verdict.replaceChildren(...parts),
    (error) => verdict.replaceChildren(element("span", { class: "bad" }, `They cannot be compared: ${error.message}`)),
  );
  const heading = element("h2", {}, "Difference");
  return element("section", { class: "pair", "aria-label": "Difference" }, heading, verdict, table(body, ["", keyed("a"), keyed("b"), "difference"]));
}

const keyed = (key) => element("span", { class: `key ${key}`, role: "img", "aria-label": key.toUpperCase() });

const axisEnds = ([low, high], width = 180) =>
  element("div", { class: "axis", style: `width: ${width}px` }, element("span", {}, tick(low)), element("span", {}, tick(high)));

const tick = (value) => String(Number(value.toPrecision(4)));

async function compareValues(a, b) {
  const query = new URLSearchParams({ a_run: a.run, b_run: b.run });
  if (a.output != null) query.set("a_output", a.output);
  if (b.output != null) query.set("b_output", b.output);
  const found = await getJson(`data/plugin/tb_firstloss/comparison?${query}`);
  const agree = found.digests_agree
    ? element("span", { class: "good" }, "Identical bit for bit: the digests agree.")
    : element("span", { class: "bad" }, "The digests differ.");
  const { values } = found;
  if (!values || found.digests_agree) return [agree];
  if (values.reason) return [agree, ` Values cannot be compared one by one: ${values.reason}.`];
  const lines = [agree, ` ${values.equal} of ${values.count} values are equal`];
  if (values.largest) {
    const { index, a: one, b: other, difference } = values.largest;
    const numbers = [one, other, difference].map((value) => text(Number(value)));
    lines.push(`; they differ most at [${index.join(", ")}]: ${numbers[0]} and ${numbers[1]}, by ${numbers[2]}`);
  }
  return [...lines, "."];
}

function table(rows, headings = null) {
  const head = headings && element("thead", {}, element("tr", {}, ...headings.map((h, i) => element("th", { scope: "col", class: i ? "number" : null }, h))));
  const cells = (row) => row.map((content, i) => element(i ? "td" : "th", { scope: i ? null : "row", class: headings && i ? "number" : null }, content));
  return element("table", {}, head, element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))));
}

// ---- The other tabs ----

function links(run, graphs, profiles) {
  const prefix = run === "." ? "" : `${run}/`;
  const profile = profiles.find((name) => name.startsWith(prefix) && !name.slice(prefix.length).includes("/"));
  const exactly = `^${run.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`;
  return [
    profile && link("Profile", `?${new URLSearchParams({ run: profile, tag: "trace_viewer@" })}#profile`),
    graphs[run] && link("Graph", `#graphs&${new URLSearchParams({ run })}`),
    link("Report", `#text&regexInput=${encodeURIComponent(exactly)}`),
  ].filter(Boolean);
}

// In a notebook TensorBoard is itself in a frame: _parent is TensorBoard, _top would be the notebook.
const link = (title, place) => element("a", { href: new URL(place, ROOT).href, target: "_parent" }, title);

// ---- Getting the data ----

async function getJson(path) {
  const response = await fetch(new URL(path, ROOT));
  if (!response.ok) throw new Error((await response.text()).slice(0, 300) || response.statusText);
  return response.json();
}

async function load() {
  const query = new URLSearchParams(state.version ? { have: state.version } : {});
  const found = await getJson(`data/plugin/tb_firstloss/recordings?${query}`);
  if (found.version === state.version) return showCount();
  state.rows = toRows(found.recordings ?? []);
  state.chosen = state.chosen.filter((id) => state.rows.some((row) => row.id === id));
  showOutputs();
  page.main.replaceChildren(state.rows.length ? page.table : nothingYet());
  showTable();
  showDetails();
  state.version = found.version;
}

function showOutputs() {
  const names = [...new Set(state.rows.map((row) => row.output).filter((name) => name != null))].sort(byName.compare);
  if (!names.includes(state.output)) state.output = "";
  page.output.replaceChildren(
    element("option", { value: "" }, "all"),
    ...names.map((name) => element("option", { value: name, selected: name === state.output }, name)),
  );
  page.outputField.hidden = names.length < 2;
}

function nothingYet() {
  return element(
    "div",
    { class: "message" },
    element("h1", {}, "No first-batch loss recorded here yet"),
    element("p", {}, "Wrap the training step, or add the callback to fit; the first batch then appears here."),
    element("pre", {}, element("code", {}, 'step = tb_firstloss.FirstLoss("runs").wrap(step)\n\nmodel.fit(…, callbacks=[tb_firstloss.FirstLossCallback("runs")])')),
    element("p", { class: "dim" }, "TensorBoard may still be reading the logdir."),
  );
}

async function update() {
  try {
    await load();
  } catch (error) {
    page.status.textContent = `Not up to date: ${error.message}`;
  }
}

async function poll() {
  if (!document.hidden) await update();
  setTimeout(poll, state.rows.length ? POLL_MILLIS.filled : POLL_MILLIS.empty);
}

// TensorBoard's reload button and its timer reach a plugin's page as a message, to be answered.
function followReload() {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    const { type, id, isReply } = JSON.parse(data);
    if (isReply) return;
    port1.postMessage(JSON.stringify({ type, id, payload: null, error: null, isReply: true }));
    if (type === "experimental.DataReloaded") update();
  };
  window.parent.postMessage("experimental.bootstrap", "*", [port2]);
}

export async function render() {
  buildPage();
  followTheme();
  followReload();
  page.main.append(element("div", { class: "message dim" }, "Reading the recordings …"));
  await poll();
}

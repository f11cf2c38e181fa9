// The page of the "First loss" tab: a table of all recordings, and details of the chosen
// ones. No library, no build step, no request to anyone but the TensorBoard that serves it.

import { onAddress, readAddress, writeAddress } from "./address.js";
import { showDetails } from "./details.js";
import { copy, save, toText } from "./copy.js";
import { element, text } from "./dom.js";
import { axisEnds, histogram, sharedAxis } from "./histogram.js";
import { byName, compareRows, nameCutter, toRows } from "./rows.js";
import { getJson } from "./server.js";

const POLL_MILLIS = { empty: 2000, filled: 10000 };
const ROWS_PER_FRAME = 100;

const COLUMNS = [
  { id: "run", title: "Run", help: "Run directory, relative to the logdir" },
  { id: "loss", title: "Loss", help: "What the step differentiates" },
  { id: "expected", title: "Expected", help: "The expectation given when it was recorded" },
  { id: "count", title: "Count", help: "Number of per-example losses" },
  { id: "mean", title: "Mean", help: "Mean of the finite per-example losses" },
  { id: "std", title: "Std", help: "Standard deviation of the finite per-example losses" },
  { id: "min", title: "Min", help: "Smallest finite per-example loss" },
  { id: "max", title: "Max", help: "Largest finite per-example loss" },
  { id: "nonfinite", title: "Non-finite", help: "Number of NaN and infinite per-example losses" },
];

const state = {
  rows: [], // one per loss, and one per output without a loss, of each recording
  cut: null, // cuts a run's name into its common and its telling parts
  shown: [], // those of them that pass the filters
  complaint: "", // about the filter
  version: null,
  chosen: [], // ids of rows
  sort: { id: "run", descending: false },
  filter: "",
  name: "", // of a loss or an output; "" for all
};
const page = {}; // the elements that change
const drawn = new Map(); // row id → its table row

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
  page.name = element("select", { onchange: () => ((state.name = page.name.value), showTable()) });
  page.nameField = element("label", { class: "field", hidden: true }, "Loss or output", page.name);
  page.status = element("span", { class: "status", role: "status" });
  page.headings = element("tr");
  page.body = element("tbody");
  page.table = element("table", {}, element("thead", {}, page.headings), page.body);
  page.main = element("main");
  page.details = element("aside", { "aria-label": "Chosen runs", tabindex: "-1" });
  const filterField = element("label", { class: "field" }, "Filter runs", page.filter);
  const copyButton = element("button", { onclick: copyTable, title: "Copy the table as shown, with all digits" }, "Copy");
  const saveButton = element("button", { onclick: saveTable, title: "Save the table as shown, with all digits" }, "CSV");
  const heading = element("h1", {}, "First loss");
  const header = element("header", {}, heading, copyButton, saveButton, filterField, page.nameField, page.status);
  document.body.append(header, page.main, page.details);
}

const saveTable = () => save("first_loss.csv", toText(COLUMNS, state.shown, ","));

function copyTable() {
  const done = copy(toText(COLUMNS, state.shown, "\t"));
  page.status.textContent = done ? `${state.shown.length} rows copied` : "The browser refuses to copy";
}

// TensorBoard tells a plugin's page nothing about the theme, but marks its own body.
function followTheme() {
  const body = window.parent.document.body;
  const adopt = () => document.documentElement.classList.toggle("dark", body.classList.contains("dark-mode"));
  new MutationObserver(adopt).observe(body, { attributes: true, attributeFilter: ["class"] });
  adopt();
}

// ---- The table ----

function visibleRows() {
  let pattern = null;
  state.complaint = "";
  try {
    pattern = new RegExp(state.filter, "i");
  } catch (error) {
    state.complaint = `${error.message}; searched as plain text: `; // it may be half-typed
  }
  page.filter.setAttribute("aria-invalid", String(!pattern));
  return state.rows
    .filter(({ run }) => (pattern ? pattern.test(run) : run.includes(state.filter)))
    .filter((row) => !state.name || row.problem || row.names.includes(state.name))
    .sort((a, b) => compareRows(a, b, state.sort));
}

let drawing = 0; // the latest drawing stops earlier ones

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
  state.shown = rows;
  showCount();
  showAddress();
}

function showCount() {
  const [shown, all] = [state.shown, state.rows].map((rows) => new Set(rows.map(({ run }) => run)).size);
  const runs = all === 1 ? "1 run" : `${all} runs`;
  const filtered = state.filter || state.name;
  page.status.textContent = state.complaint + (filtered ? `${shown} of ${runs} match` : runs);
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
  if (old?.source === row && old.cut === state.cut && old.dataset.scale === scale) return old;
  const box = element("input", { type: "checkbox", onchange: () => choose(row.id) });
  const onclick = ({ target }) => target.closest("label") || !getSelection().isCollapsed || choose(row.id);
  box.checked = state.chosen.includes(row.id);
  const first = element("td", { class: "run", title: row.label }, element("label", {}, box, nameOf(row)));
  const node = element("tr", { "data-row": row.id, "data-scale": scale, onclick }, first);
  node.classList.toggle("chosen", box.checked);
  if (row.problem) {
    node.append(element("td", { class: "problem bad", colspan: COLUMNS.length, title: row.problem }, row.problem));
  } else {
    node.append(...COLUMNS.slice(1).map(({ id }) => cell(row, id)));
    const picture = axis && row.points.length ? histogram([row], axis, { width: 180, height: 22, bins: 36 }) : null;
    node.append(element("td", { class: "histogram" }, picture));
  }
  Object.assign(node, { source: row, cut: state.cut });
  drawn.set(row.id, node);
  return node;
}

// What is common to the runs has no width, but is there to be copied, searched and read aloud.
function nameOf(row) {
  const [before, middle, after] = state.cut(row.run);
  const common = (part) => part && element("span", { class: "common" }, part);
  const rest = element("span", { class: "dim" }, row.label.slice(row.run.length));
  return element("span", { class: "name" }, common(before), middle, common(after), rest);
}

function cell(row, id) {
  const value = row[id];
  if (id === "expected" && row.verdict) {
    const [look, mark] = row.verdict.ok ? ["good", "✓"] : ["bad", "✗"];
    return element("td", { class: look, title: row.verdict.message }, `${text(value)} ${mark}`);
  }
  if (id === "expected" && value == null && row.recording.has_expectation) return element("td", { class: "dim" }, "no expectation");
  const bad = (value != null && !Number.isFinite(value)) || (id === "nonfinite" && value > 0);
  return element("td", { class: bad ? "bad" : null, title: value == null ? null : String(value) }, text(value));
}

// ---- What is chosen ----

function choose(id = null) {
  if (id !== null) state.chosen = state.chosen.includes(id) ? state.chosen.filter((other) => other !== id) : [...state.chosen, id];
  for (const [rowId, node] of drawn) {
    const chosen = state.chosen.includes(rowId);
    node.classList.toggle("chosen", chosen);
    const box = node.querySelector("input");
    if (box) box.checked = chosen;
  }
  showChosen();
  showAddress();
}

function showChosen() {
  const rows = state.chosen.map((id) => state.rows.find((row) => row.id === id)).filter(Boolean);
  showDetails(page.details, rows, COLUMNS);
}

// ---- The address ----

function showAddress() {
  const { filter, name, chosen, sort } = state;
  const order = sort.id === "run" && !sort.descending ? "" : (sort.descending ? "-" : "") + sort.id;
  writeAddress({ filter: [filter], name: [name], sort: [order], chosen });
}

function adoptAddress() {
  const found = readAddress();
  if (!found) return;
  const [sort = "run"] = found("sort");
  [state.filter = "", state.name = ""] = [found("filter")[0], found("name")[0]];
  state.sort = { id: sort.replace(/^-/, ""), descending: sort.startsWith("-") };
  state.chosen = found("chosen");
  page.filter.value = state.filter;
}

// ---- Getting the data ----

async function load() {
  const query = new URLSearchParams(state.version ? { have: state.version } : {});
  const found = await getJson(`data/plugin/tb_firstloss/recordings?${query}`);
  if (!found.version || found.version === state.version) return showCount(); // nothing read yet, or no news
  state.rows = toRows(found.recordings ?? []);
  state.cut = nameCutter([...new Set(state.rows.map(({ run }) => run))]);
  showNames();
  page.main.replaceChildren(state.rows.length ? page.table : nothingYet());
  showTable();
  showChosen();
  state.version = found.version;
}

function showNames() {
  const found = state.rows.flatMap((row) => row.names);
  const names = [...new Set(state.name ? [...found, state.name] : found)].sort(byName.compare);
  page.name.replaceChildren(
    element("option", { value: "" }, "all"),
    ...names.map((name) => element("option", { value: name, selected: name === state.name }, name)),
  );
  page.nameField.hidden = names.length < 2;
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

// TensorBoard's reload button and timer reach a plugin's page as a message, which it must answer.
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
  adoptAddress();
  onAddress(() => (adoptAddress(), showNames(), showTable(), choose())); // a link to what is open already
  page.main.append(element("div", { class: "message dim" }, "Reading the recordings …"));
  await poll();
}

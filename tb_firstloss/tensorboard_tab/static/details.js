// What the page shows of the chosen rows.

import { element, text } from "./dom.js";
import { axisEnds, histogram, look, sharedAxis } from "./histogram.js";
import { ROOT, getJson } from "./server.js";

let showing = 0; // links that arrive after the rows have changed are dropped

export async function showDetails(aside, chosen, columns) {
  const mine = ++showing;
  const rows = chosen.filter((row) => !row.problem);
  const damaged = chosen.filter((row) => row.problem).map(describeProblem);
  const runs = rows.map((row, i) => describeRun(row, rows.length > 1 ? keyed(i) : null));
  const largest = rows.length === 1 ? describeLargest(rows[0]) : null;
  const picture = rows.length ? describeValues(rows) : null;
  const pair = rows.length === 2 ? describePair(rows, columns) : null;
  const parts = pair ? [pair, picture, element("div", {}, ...runs)] : [...damaged, rows.length > 1 && picture, ...runs, rows.length === 1 && picture, largest];
  aside.replaceChildren(...parts.filter(Boolean));
  if (!rows.length) return;
  const [graphs, profiles] = await Promise.all([
    getJson("data/plugin/graphs/info").catch(() => ({})),
    getJson("data/plugin/profile/runs").catch(() => []), // the profile plugin may not be installed
  ]);
  if (mine !== showing) return;
  rows.forEach((row, i) => runs[i].querySelector("nav").replaceChildren(...links(row.run, graphs, profiles)));
}

// ---- One run ----

const describeProblem = ({ label, problem }) =>
  element("section", { "aria-label": label }, element("h2", {}, label), element("p", { class: "bad" }, problem));

function describeRun(row, key) {
  const { recording } = row;
  const facts = [
    ["Step", String(recording.step)],
    ["Recorded", new Date(Number(recording.wall_time) * 1000).toLocaleString()],
    ["Values", row.kind || (row.loss == null ? "none" : "a scalar loss only")],
    ["Digest", element("code", { title: recording.digest }, recording.digest.slice(0, 16) + "…")],
  ];
  const heading = element("h2", {}, key, row.label);
  const nav = element("nav", { "aria-label": "The run in other tabs" });
  return element("section", { "aria-label": row.label }, heading, nav, table(facts));
}

function describeLargest(row) {
  if (!row.largest.length) return null;
  const rows = row.largest.map(({ index, value }) => [place(index), text(Number(value))]);
  const heading = element("h2", {}, "Largest per-example losses");
  return element("section", { class: "largest" }, heading, table(rows, ["Index", "Loss"]));
}

function describeValues(rows) {
  const axis = sharedAxis(rows);
  const bins = Math.max(...rows.map((row) => row.buckets));
  const picture = axis && histogram(rows, axis, { width: 420, height: 120, bins });
  if (!picture) return null;
  return element("section", { class: "values" }, element("h2", {}, "Per-example losses"), picture, axisEnds(axis, 420));
}

// ---- Two runs ----

function describePair([a, b], columns) {
  const pairs = columns.filter(({ id }) => typeof a[id] === "number" && typeof b[id] === "number" && id !== "expected");
  const body = pairs.map(({ id, title }) => [title, text(a[id]), text(b[id]), text(b[id] - a[id])]);
  const status = element("p", { role: "status" }, "Comparing the values …");
  compareValues(a, b).then(
    (parts) => status.replaceChildren(...parts),
    (error) => status.replaceChildren(element("span", { class: "bad" }, `They cannot be compared: ${error.message}`)),
  );
  const heading = element("h2", {}, "Difference");
  return element("section", { class: "pair", "aria-label": "Difference" }, heading, status, table(body, ["", keyed(0), keyed(1), "difference"]));
}

function keyed(i) {
  const { class: line, style } = look(i);
  return element("span", { class: `key ${line}`, style, role: "img", "aria-label": String.fromCharCode(65 + i) });
}

async function compareValues(a, b) {
  const query = new URLSearchParams({ a_run: a.run, a_row: a.name, b_run: b.run, b_row: b.name });
  const found = await getJson(`data/plugin/tb_firstloss/comparison?${query}`);
  const { digests_agree, identical, loss, values } = found;
  if (identical) {
    const why = { true: ": the digests agree.", false: "; the digests of the recordings differ.", null: "." };
    return [element("span", { class: "good" }, `Identical bit for bit${why[digests_agree]}`)];
  }
  if (!loss && !values) return ["A loss and per-example values cannot be compared."];
  const headline = element("span", { class: "bad" }, digests_agree === null ? "The values differ." : "The digests differ.");
  return [headline, ...(loss ? describeLosses(loss) : []), ...(values ? describeOutputs(values) : [])];
}

function describeLosses({ agreement, equal_in_value }) {
  if (agreement === "identical") return [" The losses are identical."];
  return [equal_in_value ? " The losses differ in bits alone." : " The losses differ."];
}

function describeOutputs(values) {
  if (values.reason) return [` Values cannot be compared one by one: ${values.reason}.`];
  return [` ${values.equal} of ${values.count} values are equal`, inBitsAlone(values), furthest(values), "."];
}

function inBitsAlone({ equal, equal_in_value }) {
  const count = equal_in_value - equal; // 0.0 and -0.0, or NaN of two payloads
  return count ? `, ${count} more ${count > 1 ? "differ" : "differs"} in bits alone` : "";
}

function furthest({ largest }) {
  if (!largest) return "";
  const [a, b, difference] = [largest.baseline, largest.value, largest.difference].map((value) => text(Number(value)));
  return `; they differ most at ${place(largest.index)}: ${a} and ${b}, by ${difference}`;
}

const place = (index) => `[${index.join(", ")}]`;

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
    graphs[run] && link("Graph", `#graphs&${new URLSearchParams({ run })}`, () => selectGraph(run)),
    link("Report", `#text&regexInput=${encodeURIComponent(exactly)}`),
  ].filter(Boolean);
}

// In a notebook TensorBoard is in a frame too: _parent is TensorBoard, _top would be the notebook.
const link = (title, path, onclick) => element("a", { href: new URL(path, ROOT).href, target: "_parent", ...(onclick && { onclick }) }, title);

const GRAPH_WAIT = { millis: 100, tries: 300 };

// TensorBoard 2.21 works out `run` from the address, but shows the logdir's first run; so choose
// the run in the dashboard's menu once that knows it. This page lives on behind the dashboard.
async function selectGraph(run) {
  const { document, location } = window.parent;
  for (let i = 0; i < GRAPH_WAIT.tries; i++) {
    await new Promise((resolve) => setTimeout(resolve, GRAPH_WAIT.millis));
    if (!location.hash.startsWith("#graphs")) return; // the link was opened elsewhere
    const controls = document.querySelector("tf-graph-dashboard")?.shadowRoot?.querySelector("tf-graph-controls");
    const index = controls?.datasets?.findIndex(({ name }) => name === run) ?? -1;
    if (index >= 0) return void (controls._selectedRunIndex = index);
  }
}

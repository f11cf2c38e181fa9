// The recordings that the server sends, as the rows of the table.

export const byName = new Intl.Collator(undefined, { numeric: true });

export function toRows(recordings) {
  return recordings.flatMap((recording) => {
    const { run, problem } = recording;
    if (problem != null) return [{ id: JSON.stringify([run]), run, label: run, names: [], problem, place: 0, points: [] }];
    return recording.rows.map((row, place) => toRow(recording, row, place));
  });
}

function toRow(recording, row, place) {
  const number = (value) => (value == null ? null : Number(value));
  const { output } = row;
  return {
    ...row, // name, names (of its output and of its loss), verdict and kind
    id: JSON.stringify([recording.run, row.name]),
    run: recording.run,
    label: recording.rows.length > 1 ? `${recording.run}: ${row.name}` : recording.run,
    place,
    recording,
    loss: number(row.loss),
    expected: number(row.expected),
    count: output?.count ?? null,
    mean: number(output?.mean),
    std: number(output?.std),
    min: number(output?.min),
    max: number(output?.max),
    nonfinite: output?.nonfinite_count ?? null,
    points: output?.values?.map((value, i) => [value, output.counts[i]]) ?? [],
    largest: output?.largest ?? [],
    buckets: output?.buckets ?? 1,
  };
}

// Returns what cuts a run's name into a beginning, what tells it apart, and an end: the directories
// that all share, and the last part that most have.
export function nameCutter(runs) {
  const folders = runs.map((run) => run.split("/").slice(0, -1));
  let shared = 0;
  while (runs.length > 1 && folders.every((parts) => parts.length > shared && parts[shared] === folders[0][shared])) shared++;
  const start = shared && folders[0].slice(0, shared).join("/").length + 1;
  const ends = runs.filter((run) => run.includes("/", start)).map((run) => run.slice(run.lastIndexOf("/"))).sort();
  const median = ends[ends.length >> 1]; // which is what most have, if there is such an end
  const common = ends.filter((end) => end === median).length > Math.max(1, ends.length / 2) ? median : null;
  const known = new Set(runs);
  return (run) => {
    const cut = common && run.includes("/", start) && run.endsWith(common) && !known.has(run.slice(0, -common.length));
    const end = cut ? run.length - common.length : run.length;
    return [run.slice(0, start), run.slice(start, end), run.slice(end)];
  };
}

// Returns how two rows compare in an order by one column: a NaN is above every number, a recording
// that cannot be read above that, and what has no value is last in either direction.
export function compareRows(a, b, { id, descending }) {
  const sign = descending ? -1 : 1;
  if (id === "run") return sign * byRun(a, b);
  const [x, y] = [a[id], b[id]];
  const rank = (row) => (row.problem ? 2 : Number.isNaN(row[id]) ? 1 : row[id] == null ? null : 0);
  const [one, other] = [rank(a), rank(b)];
  if (one === null || other === null) return (one === null) - (other === null) || byRun(a, b);
  return sign * (one - other || (one ? 0 : x > y ? 1 : x < y ? -1 : 0)) || byRun(a, b);
}

const byRun = (a, b) => byName.compare(a.run, b.run) || a.place - b.place;

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

// Returns how two rows compare in an order by one column: what has no value comes last.
export function compareRows(a, b, { id, descending }) {
  if (a.problem || b.problem) return Boolean(a.problem) - Boolean(b.problem) || byRun(a, b);
  const sign = descending ? -1 : 1;
  if (id === "run") return sign * byRun(a, b);
  const [x, y] = [a[id], b[id]];
  const missing = (v) => v == null || Number.isNaN(v);
  if (missing(x) || missing(y)) return missing(x) - missing(y) || byRun(a, b); // always last
  return sign * (x > y ? 1 : x < y ? -1 : 0) || byRun(a, b);
}

const byRun = (a, b) => byName.compare(a.run, b.run) || a.place - b.place;

// The recordings that the server sends, as the rows of the table.

export const byName = new Intl.Collator(undefined, { numeric: true });

export function toRows(recordings) {
  return recordings.flatMap((recording) => {
    const { run, problem } = recording;
    if (problem != null) return [{ id: JSON.stringify([run]), run, problem, points: [] }];
    const outputs = recording.outputs.length ? recording.outputs : [null];
    return outputs.map((output) => toRow(recording, output));
  });
}

function toRow(recording, output) {
  const number = (value) => (value == null ? null : Number(value));
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
    points: output?.values?.map((value, i) => [value, output.counts[i]]) ?? [],
    largest: output?.largest ?? [],
    kind: output?.kind ?? null,
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

const byRun = (a, b) => byName.compare(a.run, b.run) || byName.compare(a.output ?? "", b.output ?? "");

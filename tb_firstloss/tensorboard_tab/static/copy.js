// What the table shows as text, with the exact numbers: to paste into a spreadsheet, or as a file.

export function toText(columns, rows, separator) {
  const lines = [["Run", "Loss or output", ...columns.slice(1).map(({ title }) => title), "Problem"]];
  for (const row of rows) {
    lines.push([row.run, row.name, ...columns.slice(1).map(({ id }) => row[id]), row.problem]);
  }
  return lines.map((line) => line.map(quote).join(separator) + "\r\n").join("");
}

function quote(value) {
  const text = value == null ? "" : String(value);
  return /[",\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// Not navigator.clipboard, which is only there under https and on localhost.
export function copy(text) {
  const listen = (event) => (event.clipboardData.setData("text/plain", text), event.preventDefault());
  document.addEventListener("copy", listen, { once: true });
  return document.execCommand("copy");
}

export function save(name, text) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href, download: name }).click();
  URL.revokeObjectURL(href);
}

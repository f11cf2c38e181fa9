// What the page shows, in the address of TensorBoard: it survives a reload, and can be sent. TensorBoard
// leaves alone what a plugin's name precedes in the fragment.

const TAB = "#tb_firstloss";
const PREFIX = "p.tb_firstloss.";

const parts = () => [...new URLSearchParams(window.parent.location.hash.replace(/^#[^&]*/, ""))];
const isOurs = ([key]) => key.startsWith(PREFIX);

// Returns the values by key, or null if the address has none.
export function readAddress() {
  const found = parts().filter(isOurs);
  const values = (key) => found.filter(([name]) => name === PREFIX + key).map(([, value]) => value);
  return found.length ? values : null;
}

export function writeAddress(values) {
  const { history, location } = window.parent;
  if (location.hash.split("&")[0] !== TAB) return; // another tab is open
  const ours = Object.entries(values).flatMap(([key, all]) => all.filter(Boolean).map((value) => [PREFIX + key, value]));
  const query = new URLSearchParams([...parts().filter((part) => !isOurs(part)), ...ours]).toString();
  history.replaceState(history.state, "", query ? `${TAB}&${query}` : TAB);
}

export const onAddress = (call) => window.parent.addEventListener("hashchange", call);

// The TensorBoard that serves this page, which is <ROOT>data/plugin/tb_firstloss/index.js.

export const ROOT = new URL("../../../", import.meta.url);

export async function getJson(path) {
  const response = await fetch(new URL(path, ROOT));
  if (!response.ok) throw new Error((await response.text()).slice(0, 300) || response.statusText);
  return response.json();
}

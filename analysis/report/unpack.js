// Unpack bulky arrays: base64, deflated; numbers as differences from the one before, column by column.

async function unpackBytes(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function unpackNumbers(text, columns, rows) {
  const bytes = await unpackBytes(text);
  const numbers = new Int32Array(bytes.buffer, bytes.byteOffset, columns * rows);
  return Array.from({ length: columns }, (_, column) => {
    const values = numbers.slice(column * rows, (column + 1) * rows);
    for (let row = 1; row < rows; row++) values[row] += values[row - 1];
    return values;
  });
}

function element(id) {
  return document.getElementById(id);
}

function made(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function digits(value, count = 3) {
  if (value === null || value === undefined) return "not known";
  const size = Math.abs(value);
  if (size >= 1e9) return `${digits(value / 1e9, count)} G`;
  if (size >= 1e6) return `${digits(value / 1e6, count)} M`;
  if (size >= 1e4) return `${digits(value / 1e3, count)} k`;
  return size >= 10 ** (count - 1) ? value.toFixed(0) : String(Number(value.toPrecision(count)));
}

function key(colour, name) {
  const node = made("span", name, { class: "key" });
  node.prepend(made("i", "", { style: `background:${colour}` }));
  return node;
}

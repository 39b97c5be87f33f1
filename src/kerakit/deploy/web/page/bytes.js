/** Return the bytes of a text in base64. */
function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Return the content of compressed bytes (gzip). */
async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return the bytes that the page holds under a name, and release their text. */
async function takeEmbedded(name) {
  const element = document.getElementById(name);
  const bytes = fromBase64(element.textContent.trim());
  element.remove();
  return inflate(bytes);
}

/** Round to the nearest integer, halves to the even one, as Python's round() and NumPy's rint(). */
function roundEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest < 0.5) return floor;
  if (rest > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

function product(values) {
  return values.reduce((total, value) => total * value, 1);
}

/** Return the indices of the highest values first; equal values keep their order. */
function descending(values) {
  return Array.from(values, (_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
}

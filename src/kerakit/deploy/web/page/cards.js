// A card shows one image with its prediction.

function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Return {node, show(result), fail(message)}; ``name`` is the name of the image. */
function makeCard(name) {
  const node = element("article", "card");
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  const rows = element("ul", "rows");
  const times = element("p", "times");
  const body = element("div", "body");
  const title = element("h3", "", name);
  body.append(title, rows, times);
  node.append(canvas, body);
  return {
    node,
    canvas,
    show({ size, prediction, decoder, ms, note }) {
      const caption = decoder.caption(prediction);
      canvas.setAttribute("aria-label", `${name}: ${caption}`);
      rows.replaceChildren(...listRows(decoder, prediction, size, caption));
      times.textContent = `${size[0]} by ${size[1]} pixels · ${ms.toFixed(1)} ms${note ?? ""}`;
    },
    fail(message) {
      node.classList.add("failed");
      canvas.remove();
      rows.remove();
      times.textContent = message;
      times.setAttribute("role", "alert");
    },
  };
}

function listRows(decoder, prediction, size, caption) {
  const rows = decoder.rows(prediction, size);
  return rows.length ? rows.map(makeRow) : [makeRow({ label: caption, value: "" })];
}

function makeRow({ heading, label, value, fraction, color, faint }) {
  if (heading) return element("li", "heading", heading);
  const row = element("li", faint ? "faint" : "");
  if (color) {
    const swatch = element("span", "swatch");
    swatch.style.background = color;
    row.append(swatch);
  }
  row.append(element("span", "label", label), element("span", "value", value));
  if (fraction !== undefined) {
    const bar = element("span", "bar");
    bar.style.width = `${100 * clip(fraction, 0, 1)}%`;
    row.append(bar);
  }
  return row;
}

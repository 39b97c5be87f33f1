// As kerakit/device/segmentation.py. A prediction is {scores, area}: the scores of a grid of cells,
// and its edges as fractions of the image.

function makeSegmenter({ classes, colors }) {
  const chosen = classes.map((_, i) => colors?.[i] ?? demo.constants.colors[i]);
  const records = (prediction, size) => describeMask(makeMask(prediction, size), size, classes);
  return {
    decode: (scores) => ({ scores, area: [0, 0, 1, 1] }),
    toImage: ({ scores, area: edges }, layout) => ({
      scores,
      area: [...toImage(layout, edges.slice(0, 2)), ...toImage(layout, edges.slice(2))],
    }),
    describe: records,
    caption: (prediction) => {
      const [rows, columns] = prediction.scores.shape;
      const found = records(prediction, [4 * columns, 4 * rows]).slice(0, 3);
      return found.map((one) => `${one.label} ${percent(one.fraction)}`).join(", ") || "no class";
    },
    rows: (prediction, size) =>
      records(prediction, size).map((one) => ({
        label: one.label,
        value: percent(one.fraction, 1),
        fraction: one.fraction,
        color: rgb(chosen[classes.indexOf(one.label)]),
      })),
    draw: (context, prediction) => drawMask(context, prediction, chosen),
  };
}

/** Return the class index of each pixel; that of ignored pixels outside the input. */
function makeMask({ scores, area: [left, top, right, bottom] }, [width, height]) {
  const [rows, columns, count] = scores.shape;
  const across = taps(columns, width, left, right);
  const down = taps(rows, height, top, bottom);
  const wide = widenScores(scores, across, width);
  const mask = new Uint8Array(width * height);
  const best = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    if (!down.inside[y]) {
      mask.fill(demo.constants.ignored, y * width, (y + 1) * width);
      continue;
    }
    best.fill(-Infinity);
    for (let c = 0; c < count; c++) {
      const upper = (c * rows + down.first[y]) * width;
      const lower = (c * rows + down.second[y]) * width;
      const weight = down.weight[y];
      for (let x = 0; x < width; x++) {
        const value = wide[upper + x] + (wide[lower + x] - wide[upper + x]) * weight;
        if (value > best[x]) {
          best[x] = value;
          mask[y * width + x] = c;
        }
      }
    }
    for (let x = 0; x < width; x++) if (!across.inside[x]) mask[y * width + x] = demo.constants.ignored;
  }
  return mask;
}

/** Return the scores of each class with as many columns as the image: they are few rows. */
function widenScores(scores, across, width) {
  const [rows, columns, count] = scores.shape;
  const wide = new Float64Array(count * rows * width);
  for (let c = 0; c < count; c++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < width; x++) {
        const before = scores.data[(y * columns + across.first[x]) * count + c];
        const after = scores.data[(y * columns + across.second[x]) * count + c];
        const weight = across.weight[x];
        wide[(c * rows + y) * width + x] = before * (1 - weight) + after * weight;
      }
    }
  }
  return wide;
}

/** Return, for each pixel, two cells, the second's weight, and whether it is in the grid. */
function taps(cells, pixels, start, end) {
  const first = new Int32Array(pixels);
  const second = new Int32Array(pixels);
  const weight = new Float64Array(pixels);
  const inside = new Uint8Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const at = (((i + 0.5) / pixels - start) / (end - start)) * cells - 0.5;
    inside[i] = at >= -0.5 - 1e-4 && at <= cells - 0.5 + 1e-4 ? 1 : 0;
    const near = Math.fround(clip(at, 0, cells - 1));
    first[i] = Math.trunc(near);
    second[i] = Math.min(first[i] + 1, cells - 1);
    weight[i] = near - first[i];
  }
  return { first, second, weight, inside };
}

/** Return one record per class of a mask, the one with most pixels first. */
function describeMask(mask, [width], classes) {
  const found = classes.map(() => ({ pixels: 0, left: Infinity, top: 0, right: 0, bottom: 0 }));
  mask.forEach((index, at) => {
    if (index === demo.constants.ignored) return;
    const one = found[index];
    const x = at % width;
    const y = (at - x) / width;
    if (!one.pixels) one.top = y;
    one.pixels++;
    one.left = Math.min(one.left, x);
    one.right = Math.max(one.right, x + 1);
    one.bottom = y + 1;
  });
  const total = Math.max(1, found.reduce((sum, one) => sum + one.pixels, 0));
  return descending(found.map((one) => one.pixels))
    .filter((i) => found[i].pixels)
    .map((i) => ({ label: classes[i], fraction: found[i].pixels / total, ...found[i] }));
}

function drawMask(context, prediction, colors) {
  const { width, height } = context.canvas;
  const mask = makeMask(prediction, [width, height]);
  const layer = new ImageData(width, height);
  const opacity = Math.round(255 * demo.constants.opacity);
  // One number per pixel: bytes would take ten times as long. Ignored pixels stay transparent.
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  colors.forEach((color, i) => bytes.set([...color, opacity], 4 * i));
  const pixels = new Uint32Array(layer.data.buffer);
  for (let i = 0; i < mask.length; i++) pixels[i] = table[mask[i]];
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(layer, 0, 0);
  context.drawImage(canvas, 0, 0);
}

function percent(fraction, decimals = 0) {
  return `${(100 * fraction).toFixed(decimals)} %`;
}

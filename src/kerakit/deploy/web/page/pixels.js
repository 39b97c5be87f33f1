// Images are objects of width, height and data: RGB, one byte per channel. The arithmetic is that of
// kerakit/device/predict.py and photo.py, by which the model was evaluated.

const STRIP_PIXELS = 2 ** 22;

function makeImage(width, height) {
  return { width, height, data: new Uint8Array(3 * width * height) };
}

/** Return the pixels of an ImageBitmap or a video; transparency becomes white. */
function readPixels(source, width, height) {
  const image = makeImage(width, height);
  // In strips: canvases of phones are limited to 16 million pixels, their cameras are not.
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillRect(0, 0, width, count);
    context.drawImage(source, 0, top, width, count, 0, 0, width, count);
    copyRgb(context.getImageData(0, 0, width, count).data, image.data, 3 * width * top);
  }
  return image;
}

function copyRgb(rgba, rgb, start) {
  for (let from = 0, to = start; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
}

/**
 * Return the input of the model for an image, and the positions of its pixels in it.
 *
 * ``orientation``: that of a JPEG, 1 to 8, which was applied; 0 for other images.
 */
function prepare(image, orientation, preprocessing, inputSize) {
  const layout = makeLayout(preprocessing, image.width, image.height, inputSize);
  const wanted = layout.resized;
  const decoded = orientation ? shrinkAsDecoder(image, wanted, orientation) : image;
  return { input: applyLayout(layout, resize(decoded, wanted)), layout };
}

/**
 * Return a JPEG as a decoder that scales it down by 2, 4 or 8 would: browsers decode at full size.
 * The mean of each block stands for the decoder's lower frequencies.
 */
function shrinkAsDecoder(image, [width, height], orientation) {
  const { width: columns, height: rows } = image;
  if (Math.max(columns, rows) < demo.constants.smallest_scaled) return image;
  const ratio = Math.min(Math.floor(columns / width), Math.floor(rows / height));
  const factor = [8, 4, 2, 1].find((one) => ratio >= one) ?? 1;
  return factor === 1 ? image : averageBlocks(image, factor, orientation);
}

/** Return the means of blocks of factor by factor pixels, which begin where the file begins. */
function averageBlocks(image, factor, orientation) {
  const small = makeImage(Math.ceil(image.width / factor), Math.ceil(image.height / factor));
  const across = blocks(image.width, factor, [2, 3, 6, 7].includes(orientation));
  const down = blocks(image.height, factor, [3, 4, 7, 8].includes(orientation));
  const sums = new Uint32Array(small.data.length);
  for (let y = 0, at = 0; y < image.height; y++) {
    const start = down.index[y] * small.width;
    for (let x = 0; x < image.width; x++) {
      const into = 3 * (start + across.index[x]);
      sums[into] += image.data[at++];
      sums[into + 1] += image.data[at++];
      sums[into + 2] += image.data[at++];
    }
  }
  for (let y = 0, at = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++) {
      const count = down.length[y] * across.length[x];
      for (let c = 0; c < 3; c++, at++) small.data[at] = Math.round(sums[at] / count);
    }
  }
  return small;
}

/** Return the block of each pixel along an axis, and the number of pixels of each block. */
function blocks(pixels, factor, fromEnd) {
  const skipped = fromEnd ? (factor - (pixels % factor)) % factor : 0;
  const index = Int32Array.from({ length: pixels }, (_, i) => Math.floor((i + skipped) / factor));
  const length = new Int32Array(Math.ceil(pixels / factor));
  for (const one of index) length[one]++;
  return { index, length };
}

/** Resize as kerakit/device/predict.py: averages of areas if it shrinks by 4 or more, then bilinear. */
function resize(image, [width, height]) {
  let source = image;
  if (source.width >= 4 * width || source.height >= 4 * height) {
    source = average(source, Math.min(source.width, width), Math.min(source.height, height));
  }
  if (source.width === width && source.height === height) return source;
  return resizeBilinear(source, width, height);
}

/** Bilinear in the fixed-point numbers of OpenCV: columns, then rows, weights of 11 bits. */
function resizeBilinear(image, width, height) {
  const result = makeImage(width, height);
  const across = neighbors(image.width, width);
  const down = neighbors(image.height, height);
  const rows = new Map();
  const widen = (row) => {
    // Each row is widened once, and needed for neighboring rows of the result alone.
    if (!rows.has(row)) rows.set(row, widenRow(image, row, across));
    return rows.get(row);
  };
  for (let y = 0; y < height; y++) {
    const upper = widen(down.first[y]);
    const lower = widen(down.second[y]);
    for (const row of rows.keys()) if (row < down.first[y]) rows.delete(row);
    const weight = down.weight[y];
    const start = 3 * width * y;
    for (let i = 0; i < 3 * width; i++) {
      const mixed = ((upper[i] * (2048 - weight)) >> 16) + ((lower[i] * weight) >> 16);
      result.data[start + i] = (mixed + 2) >> 2;
    }
  }
  return result;
}

function widenRow(image, row, { first, second, weight }) {
  const wide = new Int32Array(3 * first.length);
  const start = 3 * row * image.width;
  for (let x = 0, to = 0; x < first.length; x++) {
    const left = start + 3 * first[x];
    const right = start + 3 * second[x];
    for (let c = 0; c < 3; c++, to++) {
      const sum = image.data[left + c] * (2048 - weight[x]) + image.data[right + c] * weight[x];
      wide[to] = sum >> 4;
    }
  }
  return wide;
}

/** Return, for each of the wanted pixels, its two neighbors and the second's weight of 2048. */
function neighbors(length, wanted) {
  const first = new Int32Array(wanted);
  const second = new Int32Array(wanted);
  const weight = new Int32Array(wanted);
  for (let i = 0; i < wanted; i++) {
    const exact = Math.fround((i + 0.5) * (length / wanted) - 0.5);
    const at = Math.min(Math.max(exact, 0), length - 1);
    first[i] = Math.trunc(at);
    second[i] = Math.min(first[i] + 1, length - 1);
    weight[i] = roundEven((at - first[i]) * 2048);
  }
  return { first, second, weight };
}

/** Reduce to the mean of each pixel's area; pixels at borders count by their fractions. */
function average(image, width, height) {
  const result = makeImage(width, height);
  const rows = areas(image.height, height);
  const columns = areas(image.width, width);
  const scale = Math.fround((width * height) / (image.width * image.height));
  const sums = new Float64Array(3 * image.width);
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    rows[y].forEach(([row, weight]) => addRow(image, row, weight, sums));
    for (let i = 0; i < sums.length; i++) sums[i] = Math.fround(sums[i]);
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [column, weight] of columns[x]) sum += weight * sums[3 * column + c];
        const mean = roundEven(Math.fround(Math.fround(sum) * scale));
        result.data[3 * (y * width + x) + c] = mean;
      }
    }
  }
  return result;
}

function addRow(image, row, weight, sums) {
  const start = 3 * row * image.width;
  for (let i = 0; i < sums.length; i++) sums[i] += weight * image.data[start + i];
}

/** Return the pixels of each of ``count`` equal areas of ``length`` pixels, with their weights. */
function areas(length, count) {
  return Array.from({ length: count }, (_, i) => {
    const begin = i * (length / count);
    const end = (i + 1) * (length / count);
    const pixels = [];
    for (let at = Math.floor(begin); at < Math.min(Math.ceil(end), length); at++) {
      pixels.push([at, Math.fround(Math.min(at + 1, end) - Math.max(at, begin))]);
    }
    return pixels;
  });
}

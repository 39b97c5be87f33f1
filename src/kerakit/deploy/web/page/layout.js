// Crop, resize policy and color, as in kerakit/device/preprocessing.py. Sizes and positions are [x, y].

/** Return the positions of the pixels of an upright image in an input of [width, height]. */
function makeLayout(preprocessing, width, height, inputSize) {
  const [left, top, right, bottom] = preprocessing.crop;
  const across = right - left;
  const down = bottom - top;
  const used = usedSize(preprocessing.resize, across * width, down * height, inputSize);
  const resized = [
    Math.max(used[0], roundEven(used[0] / across)),
    Math.max(used[1], roundEven(used[1] / down)),
  ];
  if (product(resized) > demo.constants.max_resized) {
    throw new Error(`${width} by ${height} pixels are too long and narrow to be cropped`);
  }
  const start = [
    Math.min(roundEven(left * resized[0]), resized[0] - used[0]),
    Math.min(roundEven(top * resized[1]), resized[1] - used[1]),
  ];
  const free = [inputSize[0] - used[0], inputSize[1] - used[1]];
  return {
    resized,
    start: start.map((at, axis) => at + Math.max(0, Math.floor(-free[axis] / 2))),
    used: used.map((length, axis) => Math.min(length, inputSize[axis])),
    offset: free.map((length) => Math.floor(Math.max(0, length) / 2)),
    inputSize,
    isGray: preprocessing.color === "gray",
  };
}

function usedSize(policy, width, height, inputSize) {
  if (policy === "stretch") return inputSize;
  const scales = [inputSize[0] / width, inputSize[1] / height];
  const scale = policy === "letterbox" ? Math.min(...scales) : Math.max(...scales);
  return [Math.max(1, roundEven(width * scale)), Math.max(1, roundEven(height * scale))];
}

/** Return the input, RGB bytes, for the resized image. */
function applyLayout(layout, image) {
  const [width, height] = layout.used;
  const input = new Uint8Array(3 * product(layout.inputSize));
  for (let y = 0; y < height; y++) {
    const from = 3 * ((layout.start[1] + y) * image.width + layout.start[0]);
    const to = 3 * ((layout.offset[1] + y) * layout.inputSize[0] + layout.offset[0]);
    input.set(image.data.subarray(from, from + 3 * width), to);
  }
  if (layout.isGray) removeColor(input);
  return input;
}

/** Three equal channels: luma in the integers of Pillow; black stays black. */
function removeColor(data) {
  for (let i = 0; i < data.length; i += 3) {
    const luma = 19595 * data[i] + 38470 * data[i + 1] + 7471 * data[i + 2];
    data.fill((luma + 0x8000) >> 16, i, i + 3);
  }
}

/** Return fractions of the upright image for fractions of the input. */
function toImage(layout, point) {
  return point.map((value, axis) => {
    const moved = layout.offset[axis] - layout.start[axis];
    return (value * layout.inputSize[axis] - moved) / layout.resized[axis];
  });
}

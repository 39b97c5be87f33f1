// As kerakit/device/detection.py. A prediction is a list of {box: [x1, y1, x2, y2], score, index},
// the highest score first; boxes are fractions of the image.

function makeDetector({ classes, strides, overlap, threshold }) {
  const visible = (found) => found.filter((one) => one.score >= threshold);
  const describe = (found, size) =>
    visible(found)
      .slice(0, demo.constants.max_objects)
      .map(({ box, score, index }) => ({
        label: classes[index],
        confidence: score,
        ...Object.fromEntries(
          ["x1", "y1", "x2", "y2"].map((name, i) => [name, round1(box[i] * size[i % 2])]),
        ),
      }));
  return {
    decode: (outputs) => decodeBoxes(outputs, strides, overlap, threshold),
    toImage: (found, layout) => found.map((one) => moveBox(one, layout)).filter(hasArea),
    describe,
    caption: (found) => countClasses(visible(found), classes),
    rows: (found) =>
      visible(found).map((one) => ({
        label: classes[one.index],
        value: one.score.toFixed(2),
        color: boxColor(one.index),
      })),
    // The most confident last, on top.
    draw: (context, found) =>
      visible(found)
        .reverse()
        .forEach((one) => drawBox(context, one, classes[one.index])),
  };
}

function decodeBoxes(outputs, strides, overlap, minimum) {
  let size = [1, 1];
  const found = [];
  for (const stride of strides) {
    const [rows, columns] = outputs[`object_${stride}`].shape;
    size = [columns * stride, rows * stride];
    for (let cell = 0; cell < rows * columns; cell++) {
      const one = decodeCell(outputs, stride, cell, columns, minimum);
      if (one) found.push(one);
    }
  }
  const clipped = found
    .map((one) => ({ ...one, box: one.box.map((x, i) => clip(x, 0, size[i % 2])) }))
    .filter((one) => hasArea(one) && one.score >= minimum);
  const best = descending(clipped.map((one) => one.score)).slice(0, demo.constants.max_candidates);
  return suppress(best.map((i) => clipped[i]), overlap).map((one) => ({
    ...one,
    box: one.box.map((x, i) => Math.fround(x / size[i % 2])),
  }));
}

/** Return the box of a cell, in pixels, or null if its score is too low. */
function decodeCell(outputs, stride, cell, columns, minimum) {
  const objectness = sigmoid(outputs[`object_${stride}`].data[cell]);
  // A score is at most that of its objectness.
  if (objectness < minimum) return null;
  const logits = outputs[`class_${stride}`];
  const count = logits.shape.at(-1);
  let index = 0;
  for (let i = 1; i < count; i++) {
    if (logits.data[cell * count + i] > logits.data[cell * count + index]) index = i;
  }
  const distances = outputs[`box_${stride}`].data.subarray(4 * cell, 4 * cell + 4);
  const center = [((cell % columns) + 0.5) * stride, (Math.floor(cell / columns) + 0.5) * stride];
  const box = Array.from(distances, (distance, i) =>
    Math.fround(center[i % 2] + (i < 2 ? -1 : 1) * distance * stride),
  );
  const score = Math.fround(objectness * sigmoid(logits.data[cell * count + index]));
  return { box, score, index };
}

/** Non-maximum suppression per class; ``found`` has the highest score first. */
function suppress(found, overlap) {
  const remaining = [];
  for (const one of found) {
    if (remaining.length === demo.constants.max_objects) break;
    const isRival = (other) => other.index === one.index && iou(one.box, other.box) > overlap;
    if (!remaining.some(isRival)) remaining.push(one);
  }
  return remaining;
}

/** Return the intersection over union of two boxes. */
function iou(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  return shared / Math.max(area(one) + area(other) - shared, 1e-9);
}

function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

function hasArea({ box: [x1, y1, x2, y2] }) {
  return x2 > x1 && y2 > y1;
}

function moveBox(one, layout) {
  const corners = [...toImage(layout, one.box.slice(0, 2)), ...toImage(layout, one.box.slice(2))];
  return { ...one, box: corners.map((x) => clip(Math.fround(x), 0, 1)) };
}

function countClasses(found, classes) {
  const counts = classes.map((_, i) => found.filter((one) => one.index === i).length);
  const named = classes.map((name, i) => `${counts[i]} ${name}`).filter((_, i) => counts[i]);
  return named.join(", ") || "no object";
}

function boxColor(index) {
  const colors = demo.constants.box_colors;
  return rgb(colors[index % colors.length]);
}

function drawBox(context, { box, score, index }, name) {
  const { width, height } = context.canvas;
  const [x1, y1, x2, y2] = box.map((x, i) => x * (i % 2 ? height : width));
  context.strokeStyle = boxColor(index);
  context.lineWidth = Math.max(2, Math.round(Math.max(width, height) / 200));
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  drawTag(context, `${name} ${score.toFixed(2)}`, x1, y1, boxColor(index));
}

function sigmoid(logit) {
  return Math.fround(1 / (1 + Math.fround(Math.exp(-clip(logit, -60, 60)))));
}

function clip(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function round1(value) {
  return roundEven(value * 10) / 10;
}

// As kerakit/device/keypoints.py. A prediction is a list of {x, y, confidence}, fractions of the image.

function makeKeypoints({ classes, skeleton }) {
  const lines = (skeleton ?? []).map((pair) => pair.map((name) => classes.indexOf(name)));
  const isShown = (point) => point.confidence >= demo.constants.min_confidence;
  const describe = (points, size) =>
    points.map((point, i) => ({
      point: classes[i],
      x: point.x * size[0],
      y: point.y * size[1],
      confidence: point.confidence,
    }));
  const position = ({ x, y }) => `${Math.round(100 * x)}%|${Math.round(100 * y)}%`;
  return {
    decode: (outputs) => decodePoints(outputs),
    toImage: (points, layout) =>
      points.map(({ x, y, confidence }) => {
        const [left, top] = toImage(layout, [x, y]);
        return { x: left, y: top, confidence };
      }),
    describe,
    caption: (points) =>
      points
        .map((point, i) => isShown(point) && `${classes[i]} ${position(point)}`)
        .filter(Boolean)
        .join(", ") || "no confident point",
    rows: (points) =>
      points.map((point, i) => ({
        label: classes[i],
        value: point.confidence.toFixed(2),
        fraction: point.confidence,
        color: rgb(demo.constants.colors[i]),
        faint: !isShown(point),
      })),
    draw: (context, points) => drawPoints(context, points, lines, isShown),
  };
}

/** Return the points: the cell with the highest score, and its offset. */
function decodePoints({ heatmaps, offsets }) {
  const [rows, columns, count] = heatmaps.shape;
  return Array.from({ length: count }, (_, point) => {
    let best = 0;
    for (let cell = 1; cell < rows * columns; cell++) {
      if (heatmaps.data[cell * count + point] > heatmaps.data[best * count + point]) best = cell;
    }
    const at = 2 * (best * count + point);
    const logit = clip(heatmaps.data[best * count + point], -50, 50);
    return {
      x: ((best % columns) + 0.5 + offsets.data[at]) / columns,
      y: (Math.floor(best / columns) + 0.5 + offsets.data[at + 1]) / rows,
      confidence: 1 / (1 + Math.exp(-logit)),
    };
  });
}

function drawPoints(context, points, lines, isShown) {
  const { width, height } = context.canvas;
  const radius = Math.max(3, Math.round(Math.max(width, height) / 60));
  context.lineWidth = Math.max(2, radius / 2);
  context.strokeStyle = "white";
  for (const [start, end] of lines.map((pair) => pair.map((i) => points[i]))) {
    if (!isShown(start) || !isShown(end)) continue;
    context.beginPath();
    context.moveTo(start.x * width, start.y * height);
    context.lineTo(end.x * width, end.y * height);
    context.stroke();
  }
  context.lineWidth = Math.max(1, radius / 5);
  context.strokeStyle = "black";
  points.forEach((point, i) => {
    if (!isShown(point)) return;
    context.beginPath();
    context.arc(point.x * width, point.y * height, radius, 0, 2 * Math.PI);
    context.fillStyle = rgb(demo.constants.colors[i]);
    context.fill();
    context.stroke();
  });
}

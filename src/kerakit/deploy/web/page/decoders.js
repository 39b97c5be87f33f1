// Decoders turn the outputs of one image into a prediction, as kerakit/device does. Each has:
//   decode(outputs), toImage(prediction, layout),
//   describe(prediction, size): records as of `kerakit predict`,
//   caption(prediction): one line,
//   rows(prediction, size): {label, value, fraction, color} for the list beside the image,
//   draw(context, prediction): on a canvas that shows the image.
// Outputs are {shape, data}; those of several tensors are by their names.

const SHOWN_LABELS = 5;

function makeDecoder(task) {
  const makers = {
    classification: makeClassifier,
    multilabel: makeMultiLabel,
    regression: makeRegression,
    detection: makeDetector,
    segmentation: makeSegmenter,
    keypoints: makeKeypoints,
    multitask: makeSeveral,
  };
  return (makers[task.task] ?? makeRaw)(task);
}

/** Base of the decoders of labels that have no coordinates in the image. */
const labelDecoder = { toImage: (prediction) => prediction, draw() {} };

function makeClassifier({ classes }) {
  const describe = (scores, size, top = 1) =>
    descending(scores)
      .slice(0, top)
      .map((i) => ({ label: classes[i], confidence: scores[i] }));
  return {
    ...labelDecoder,
    decode: (outputs) => outputs.data,
    describe,
    caption: (scores) => describe(scores).map(nameWithScore).join(", "),
    rows: (scores, size) => describe(scores, size, SHOWN_LABELS).map(scoreRow),
  };
}

function makeMultiLabel({ classes, thresholds }) {
  const describe = (scores, size, top = 0) => {
    const order = descending(scores);
    const isPresent = (i) => scores[i] >= thresholds[i];
    const chosen = order.filter(isPresent);
    const others = order.filter((i) => !isPresent(i)).slice(0, Math.max(0, top - chosen.length));
    return [...chosen, ...others].map((i) => ({
      label: classes[i],
      confidence: scores[i],
      present: isPresent(i),
    }));
  };
  return {
    ...labelDecoder,
    decode: (outputs) => outputs.data,
    describe,
    caption: (scores) => describe(scores).map(nameWithScore).join(", ") || "no label",
    rows: (scores, size) =>
      describe(scores, size, SHOWN_LABELS).map((one) => ({
        ...scoreRow(one),
        faint: !one.present,
      })),
  };
}

function makeRegression({ classes, low, high }) {
  const describe = (values) =>
    classes.map((name, i) => ({ quantity: name, value: values[i] }));
  const text = (value) => String(Number(value.toPrecision(4)));
  return {
    ...labelDecoder,
    decode: (outputs) => Array.from(outputs.data, (x, i) => low[i] + x * (high[i] - low[i])),
    describe,
    caption: (values) => classes.map((name, i) => `${name} ${text(values[i])}`).join(", "),
    rows: (values) =>
      classes.map((name, i) => ({
        label: name,
        value: text(values[i]),
        fraction: (values[i] - low[i]) / (high[i] - low[i]),
      })),
  };
}

/** Outputs as they are, for tasks of the owner's own. */
function makeRaw() {
  const named = (outputs) => (outputs.data ? { output: outputs } : outputs);
  const rows = (outputs) =>
    Object.entries(outputs).map(([label, { data }]) => ({
      label,
      value: Array.from(data.slice(0, 8), (x) => x.toPrecision(3)).join(" ") +
        (data.length > 8 ? " …" : ""),
    }));
  return {
    ...labelDecoder,
    decode: named,
    describe: (outputs) => [
      Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, [...data]])),
    ],
    caption: (outputs) => rows(outputs).map((row) => `${row.label} ${row.value}`).join("; "),
    rows,
  };
}

/** Several tasks: the outputs are named "task", or "task.output" where a task has several. */
function makeSeveral({ tasks }) {
  const decoders = Object.fromEntries(
    Object.entries(tasks).map(([name, task]) => [name, makeDecoder(task)]),
  );
  const map = (values, convert) =>
    Object.fromEntries(Object.entries(values).map(([key, one]) => [key, convert(key, one)]));
  return {
    decode: (outputs) => map(splitOutputs(outputs), (name, one) => decoders[name].decode(one)),
    toImage: (prediction, layout) =>
      map(prediction, (name, one) => decoders[name].toImage(one, layout)),
    describe: (prediction, size) => [describeSeveral(decoders, prediction, size)],
    caption: (prediction) =>
      Object.entries(prediction)
        .map(([name, one]) => `${name}: ${decoders[name].caption(one)}`)
        .join("; "),
    rows: (prediction, size) =>
      Object.entries(prediction).flatMap(([name, one]) => [
        { heading: name },
        ...decoders[name].rows(one, size),
      ]),
    draw: (context, prediction) =>
      Object.entries(prediction).forEach(([name, one]) => decoders[name].draw(context, one)),
  };
}

function splitOutputs(outputs) {
  const parts = Object.create(null); // a task may be named "constructor"
  for (const [key, value] of Object.entries(outputs)) {
    const dot = key.indexOf(".");
    if (dot < 0) parts[key] = value;
    else (parts[key.slice(0, dot)] ??= {})[key.slice(dot + 1)] = value;
  }
  return parts;
}

/** Return one record with the first record of each task. */
function describeSeveral(decoders, prediction, size) {
  const record = {};
  for (const [name, one] of Object.entries(prediction)) {
    for (const row of decoders[name].describe(one, size).slice(0, 1)) {
      for (const [key, value] of Object.entries(row)) record[`${name}_${key}`] = value;
    }
  }
  return record;
}

function nameWithScore({ label, confidence }) {
  return `${label} ${confidence.toFixed(2)}`;
}

function scoreRow({ label, confidence }) {
  return { label, value: confidence.toFixed(2), fraction: confidence };
}

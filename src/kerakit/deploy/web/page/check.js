// The self-check: the outputs on held-out images are compared with those that LiteRT computed when the
// page was written, and the pixels of a test image with those that were read then.

/** Return {passed, text}. */
async function checkModel(model) {
  const images = await takeEmbedded("golden_images");
  const golden = splitGolden(await takeEmbedded("golden_outputs"));
  const length = product(demo.model.input.shape);
  const tally = { equal: 0, total: 0, largest: 0, sum: 0 };
  for (let i = 0; i < demo.golden.count; i++) {
    const { outputs } = await model.run(images.slice(i * length, (i + 1) * length));
    outputs.forEach((values, k) => compare(values, golden[k].slice(i * values.length), tally, k));
  }
  const pixels = await checkPixels();
  const isExact = tally.equal === tally.total;
  // As the device bundle's check: kernels of other processors may round quantized values differently.
  const isQuantized = demo.model.outputs.every((one) => one.scale);
  const isClose = isQuantized && tally.sum / tally.total <= demo.constants.mean_steps;
  const passed = (isExact || isClose) && pixels.passed;
  return { passed, images, text: describeCheck(passed, tally, pixels) };
}

function describeCheck(passed, { equal, total, largest }, pixels) {
  const unit = demo.model.outputs[0].scale ? " of 255" : "";
  const counts = `${count(equal)} of ${count(total)} outputs equal`;
  const difference = `largest difference ${Number(largest.toPrecision(2))}${unit}`;
  return `Self-check ${passed ? "passed" : "FAILED"}: ${counts}, ${difference}; ${pixels.text}.`;
}

/** Return the stored outputs, one array per output of the model, images one after the other. */
function splitGolden(bytes) {
  let start = 0;
  return demo.model.outputs.map(({ shape, dtype }) => {
    const type = dtype === "float32" ? Float32Array : Uint8Array;
    const end = start + demo.golden.count * product(shape) * type.BYTES_PER_ELEMENT;
    const values = new type(bytes.slice(start, end).buffer);
    start = end;
    return values;
  });
}

function compare(values, expected, tally, k) {
  // Sums of floats depend on the order; quantized values do not.
  const tolerance = demo.model.outputs[k].scale ? 0 : demo.constants.float_tolerance;
  values.forEach((value, i) => {
    const difference = Math.abs(value - expected[i]);
    tally.total++;
    // Also false for NaN.
    if (difference <= tolerance * Math.max(1, Math.abs(expected[i]))) tally.equal++;
    tally.largest = Math.max(tally.largest, difference);
    tally.sum += difference;
  });
}

/** Browsers that guard against fingerprinting, or correct colors, change the pixels of canvases. */
async function checkPixels() {
  const bitmap = await openImage(new Blob([fromBase64(demo.golden.photo)], { type: "image/png" }));
  const image = readPixels(bitmap, bitmap.width, bitmap.height);
  const { input } = prepare(image, 0, demo.preprocessing, inputSize());
  const expected = await takeEmbedded("golden_pixels");
  const largest = expected.reduce((most, x, i) => Math.max(most, Math.abs(x - input[i])), 0);
  return {
    passed: input.length === expected.length && largest <= 1,
    text: largest ? `pixels of a test image differ by up to ${largest}` : "pixels equal",
  };
}

function count(number) {
  return number.toLocaleString("en-US");
}

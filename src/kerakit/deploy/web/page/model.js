// The model in LiteRT.js: WebAssembly on the CPU.

/** Return {run(input)}, which returns {outputs, ms}; ``progress`` gets the name of each step. */
async function loadModel(progress) {
  progress("Unpacking LiteRT.js …");
  globalThis.litertWasm = await takeEmbedded("wasm");
  progress("Starting LiteRT.js …");
  await LiteRT.loadLiteRt("");
  delete globalThis.litertWasm;
  progress("Loading the model …");
  const compiled = await LiteRT.loadAndCompile(await takeEmbedded("model"), {
    accelerator: "wasm",
  });
  return { run: (input) => runModel(compiled, input) };
}

/** Run the model on an input, RGB bytes; return its outputs in the order of the file. */
async function runModel(compiled, input) {
  const { shape, dtype } = demo.model.input;
  const values = dtype === "float32" ? Float32Array.from(input) : input;
  const start = performance.now();
  const tensor = new LiteRT.Tensor(values, shape);
  const results = await compiled.run([tensor]);
  // A copy: the memory of the result is released.
  const outputs = orderOutputs(compiled, results).map((one) => one.toTypedArray().slice());
  const ms = performance.now() - start;
  [tensor, ...results].forEach((one) => one.delete());
  return { outputs, ms };
}

/** LiteRT.js orders outputs by the names of the file's signature. */
function orderOutputs(compiled, results) {
  const names = compiled.getOutputDetails().map((one) => one.name);
  const order = demo.model.outputs.map((one) => names.findIndex((name) => one.keys.includes(name)));
  const isComplete = new Set(order).size === results.length && !order.includes(-1);
  return isComplete ? order.map((i) => results[i]) : results;
}

/** Return the real values of outputs: {shape, data}, or several of them by their names. */
function dequantize(outputs) {
  const real = outputs.map((values, i) => {
    const { shape, scale, zero_point: zero } = demo.model.outputs[i];
    const data = scale ? Float32Array.from(values, (x) => (x - zero) * scale) : values;
    return { shape, data };
  });
  const names = demo.task.outputs ?? [];
  return names.length ? Object.fromEntries(names.map((name, i) => [name, real[i]])) : real[0];
}

/** Return the input size, [width, height]. */
function inputSize() {
  const [, height, width] = demo.model.input.shape;
  return [width, height];
}

// Run a .tflite file with the TensorFlow Lite of mid-2021 in the npm package @tensorflow/tfjs-tflite 0.0.1-alpha.4, under Node.
//
//   node old_runtime.cjs PACKAGE MODEL IMAGES OUTPUTS
//
// PACKAGE is the package's folder; IMAGES holds raw bytes, one image after another, each as large as the model's input;
// OUTPUTS gets the raw bytes of the first output for each. What fails is said on stderr, with exit code 1.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

async function main([folder, modelPath, imagesPath, outputsPath]) {
  const wasm = path.join(folder, "deps", "tflite_web_api_cc");
  // It was made for browsers: it looks for the page's script, and finds these.
  const page = { document: { currentScript: { src: `${wasm}.js` } }, console, performance, setTimeout, TextDecoder, WebAssembly };
  page.window = page.self = page;
  vm.runInNewContext(fs.readFileSync(`${wasm}.js`, "utf8"), page, { filename: `${wasm}.js` });
  const said = [];
  const print = (line) => said.push(line);
  const wasmBinary = fs.readFileSync(`${wasm}.wasm`);
  const runtime = await page.tflite_web_api_ModuleFactory({ wasmBinary, print, printErr: print });

  const model = fs.readFileSync(modelPath);
  const at = runtime._malloc(model.length);
  runtime.HEAPU8.set(model, at);
  const loaded = runtime.TFLiteWebModelRunner.CreateFromBufferAndOptions(at, model.length, { numThreads: 1 });
  if (!loaded.ok()) throw new Error(`${loaded.errorMessage()} ${said.join(" ")}`);
  const runner = loaded.value();

  const images = fs.readFileSync(imagesPath);
  const size = runner.GetInputs().get(0).data().length;
  if (images.length === 0 || images.length % size) throw new Error(`${images.length} bytes are no images of ${size} bytes`);
  const outputs = [];
  for (let start = 0; start < images.length; start += size) {
    runner.GetInputs().get(0).data().set(images.subarray(start, start + size));
    if (!runner.Infer()) throw new Error(`the model does not run. ${said.join(" ")}`);
    outputs.push(Buffer.from(runner.GetOutputs().get(0).data()));
  }
  fs.writeFileSync(outputsPath, Buffer.concat(outputs));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});

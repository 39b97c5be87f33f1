// The page: loads the model, checks it, and predicts photos, held-out images and camera frames.

const demo = JSON.parse(document.getElementById("demo").textContent);
const decoder = makeDecoder(demo.task);

/** As of `kerakit predict --as_json`, with latencies. */
const results = [];
// Each holds a canvas of up to 6 MB.
const MAX_CARDS = 40;
let model = null;
let queue = Promise.resolve();

const byId = (id) => document.getElementById(id);

function setStatus(text, kind = "idle") {
  byId("status").textContent = text;
  byId("status").className = `status ${kind}`;
}

/** Fail early, with the reason, where a browser lacks what the page needs. */
function findMissing() {
  if (typeof WebAssembly !== "object") return "WebAssembly, which is off or not supported";
  if (typeof DecompressionStream === "undefined") return "DecompressionStream";
  if (typeof createImageBitmap === "undefined") return "createImageBitmap";
  return "";
}

function openImage(blob) {
  return createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
}

async function predictPixels(image, orientation) {
  const { input, layout } = prepare(image, orientation, demo.preprocessing, inputSize());
  const { outputs, ms } = await model.run(input);
  const prediction = decoder.toImage(decoder.decode(dequantize(outputs)), layout);
  return { prediction, decoder, ms, size: [image.width, image.height] };
}

/** Predict a file and show it; a file that is no image gets a card with the reason. */
async function predictFile(file) {
  const card = addCard(file.name);
  try {
    const bitmap = await openImage(file).catch(() => {
      throw new Error("This browser cannot read the file as an image: damaged, or an unsupported format.");
    });
    const image = readPixels(bitmap, bitmap.width, bitmap.height);
    const result = await predictPixels(image, await jpegOrientation(file));
    drawPrediction(card.canvas, bitmap, image.width, image.height, decoder, result.prediction);
    bitmap.close();
    finish(card, file.name, result);
  } catch (error) {
    card.fail(error.message);
    results.push({ path: file.name, error: error.message });
  }
}

/** Predict a held-out image, which has the size of the input. */
async function predictSample(input, name) {
  const [width, height] = inputSize();
  const card = addCard(name);
  const { outputs, ms } = await model.run(input);
  const prediction = decoder.decode(dequantize(outputs));
  drawPrediction(card.canvas, toCanvas(input, width, height), width, height, decoder, prediction);
  finish(card, name, { prediction, decoder, ms, size: [width, height] });
}

function addCard(name) {
  const card = makeCard(name);
  const after = byId("camera-card");
  if (after) after.after(card.node);
  else byId("cards").prepend(card.node);
  const all = byId("cards").children;
  while (all.length > MAX_CARDS) all[all.length - 1].remove();
  return card;
}

function finish(card, path, result) {
  card.show(result);
  const predictions = roundNumbers(decoder.describe(result.prediction, result.size));
  results.push({ path, predictions, latency_ms: Number(result.ms.toFixed(3)) });
  byId("save").hidden = false;
  byId("announcement").textContent = `${path}: ${decoder.caption(result.prediction)}`;
}

/** Round all numbers to four decimals, as `kerakit predict`. */
function roundNumbers(value) {
  if (typeof value === "number") return roundEven(value * 1e4) / 1e4;
  if (Array.isArray(value)) return value.map(roundNumbers);
  if (typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, roundNumbers(one)]));
}

/** One after the other: the model has one set of tensors. */
function enqueue(work) {
  queue = queue.then(work).catch((error) => setStatus(error.message, "bad"));
  return queue;
}

function predictFiles(files) {
  for (const file of files) enqueue(() => predictFile(file));
}

function saveResults() {
  const text = JSON.stringify(results, null, 2);
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "predictions.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

function addSamples(images) {
  const [width, height] = inputSize();
  const length = product(demo.model.input.shape);
  for (let i = 0; i < demo.golden.count; i++) {
    const input = images.slice(i * length, (i + 1) * length);
    const button = element("button", "sample");
    const name = `${demo.golden.noun} ${i + 1}`;
    button.type = "button";
    button.setAttribute("aria-label", `Predict ${name}`);
    button.append(toCanvas(input, width, height));
    button.addEventListener("click", () => enqueue(() => predictSample(input, name)));
    byId("samples").append(button);
  }
}

async function toggleCamera() {
  const button = byId("camera");
  const wasRunning = Boolean(camera.stream);
  button.disabled = true;
  try {
    if (wasRunning) stopCamera();
    else {
      byId("camera-card")?.remove();
      await startCamera();
    }
    byId("message").textContent = "";
  } catch (error) {
    stopCamera();
    byId("message").textContent = describeCameraError(error);
  }
  button.textContent = camera.stream ? "Stop the camera" : "Use the camera";
  button.setAttribute("aria-pressed", String(Boolean(camera.stream)));
  button.disabled = false;
}

function connect() {
  byId("files").addEventListener("change", (event) => {
    predictFiles([...event.target.files]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  byId("camera").addEventListener("click", toggleCamera);
  byId("save").addEventListener("click", saveResults);
  // Files that miss the drop zone would replace the page.
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => event.preventDefault());
  }
  document.addEventListener("dragover", () => document.body.classList.add("dragging"));
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, () => document.body.classList.remove("dragging"));
  }
  document.addEventListener("drop", (event) => predictFiles([...event.dataTransfer.files]));
}

async function main() {
  const missing = findMissing();
  if (missing) {
    setStatus(`This browser lacks ${missing}. Use a current one.`, "bad");
    return;
  }
  // Between two steps, the browser draws the name of the next one.
  const progress = (text) => setStatus(text);
  const loaded = await loadModel(progress);
  progress("Checking the model …");
  await new Promise((resolve) => setTimeout(resolve));
  const { passed, text, images } = await checkModel(loaded);
  setStatus(text, passed ? "good" : "bad");
  model = loaded;
  addSamples(images);
  connect();
  for (const id of ["files", "camera"]) byId(id).disabled = false;
  document.body.classList.add("ready");
  const first = images.slice(0, product(demo.model.input.shape));
  await enqueue(() => predictSample(first, `${demo.golden.noun} 1`));
}

main().catch((error) => setStatus(`The model cannot be loaded: ${error.message}`, "bad"));

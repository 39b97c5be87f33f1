// The camera: one frame after the other is predicted, as fast as the model is.

const camera = { stream: null, video: null, card: null, ends: [] };

async function startCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This browser gives pages no camera. Choose photos instead.");
  }
  const wish = { video: { facingMode: "environment" }, audio: false };
  camera.stream = await navigator.mediaDevices.getUserMedia(wish);
  camera.video = element("video");
  camera.video.muted = true;
  camera.video.playsInline = true;
  camera.video.srcObject = camera.stream;
  await camera.video.play();
  camera.card = makeCard("Camera");
  camera.card.node.id = "camera-card";
  document.getElementById("cards").prepend(camera.card.node);
  camera.card.node.scrollIntoView({ block: "nearest" });
  camera.ends = [];
  followCamera();
}

function stopCamera() {
  camera.stream?.getTracks().forEach((track) => track.stop());
  camera.stream = null;
}

async function followCamera() {
  while (camera.stream) {
    await enqueue(showFrame);
    // Lets the browser draw, and stops in hidden tabs.
    await new Promise(requestAnimationFrame);
  }
}

async function showFrame() {
  const { videoWidth: width, videoHeight: height } = camera.video;
  if (!camera.stream || !width || !height) return;
  const result = await predictPixels(readPixels(camera.video, width, height), 0);
  drawPrediction(camera.card.canvas, camera.video, width, height, decoder, result.prediction);
  camera.ends.push(performance.now());
  if (camera.ends.length > 20) camera.ends.shift();
  camera.card.show({ ...result, note: rate(camera.ends) });
}

function rate(ends) {
  if (ends.length < 2) return "";
  const perSecond = (1000 * (ends.length - 1)) / (ends.at(-1) - ends[0]);
  return ` · ${perSecond.toFixed(1)} frames/s`;
}

function describeCameraError(error) {
  const texts = {
    NotAllowedError: "The camera was refused. Allow it for this page, or choose photos instead.",
    NotFoundError: "No camera was found. Choose photos instead.",
    NotReadableError: "The camera is in use by another program.",
  };
  return texts[error.name] ?? `The camera cannot be used: ${error.message}`;
}

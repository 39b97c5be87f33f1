/** Size of the longer side of drawn images, in pixels: text and lines are drawn at this size. */
const SMALLEST_SIDE = 480;
const LARGEST_SIDE = 1200;

function rgb([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Draw an image (a bitmap, a video or a canvas) with a prediction. */
function drawPrediction(canvas, source, width, height, decoder, prediction) {
  const longer = Math.max(width, height);
  const scale = Math.min(Math.max(1, SMALLEST_SIDE / longer), LARGEST_SIDE / longer);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 3;
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  decoder.draw(context, prediction);
}

/** Write a label above a point, or below it where there is no space, within the image. */
function drawTag(context, text, x, y, color) {
  const { width, height } = context.canvas;
  const size = Math.round(Math.max(width, height) / 30);
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const box = [context.measureText(text).width + size * 0.7, size * 1.45];
  const left = clip(x - context.lineWidth / 2, 0, Math.max(0, width - box[0]));
  const top = y >= box[1] ? y - box[1] : Math.min(y, height - box[1]);
  context.fillStyle = color;
  context.fillRect(left, top, ...box);
  context.fillStyle = "white";
  context.fillText(text, left + size * 0.35, top + box[1] / 2);
}

/** Return a canvas with an image of RGB bytes. */
function toCanvas(data, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    pixels.data.set(data.subarray(from, from + 3), to);
    pixels.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

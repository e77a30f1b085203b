"use strict";

// From index.html, of the model: labels, function, top_k, processor, rows_first.
const page = JSON.parse(document.getElementById("page").textContent);
const $ = (id) => document.getElementById(id);
let chosen = 0; // images so far: an earlier one does not show its scores over a later one's

// Pillow's filters by its numbers: how far they reach, and their values.
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  1: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)], // lanczos
  2: [1, (x) => Math.max(1 - Math.abs(x), 0)], // bilinear
  3: [2, cubic],
  4: [0.5, (x) => (-0.5 < x && x <= 0.5 ? 1 : 0)], // box
  5: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)], // hamming
};
const NEAREST = 0;
const UNIT = 2 ** 22; // of the weights, which Pillow rounds to integers

function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// Of each new pixel from `begin` on: the first old one that counts, and weights from there on.
function weightsOf(size, newSize, begin, count, resample) {
  const scale = size / newSize;
  if (resample === NEAREST) {
    const firsts = [];
    for (let i = 0, at = scale * 0.5; i < begin + count; i++, at += scale) firsts.push(Math.floor(at));
    return firsts.slice(begin).map((first) => ({ first: Math.min(first, size - 1), weights: [UNIT] }));
  }
  const [reach, filter] = FILTERS[resample];
  const width = Math.max(scale, 1); // the filter does not narrow when it enlarges
  return Array.from({ length: count }, (_, i) => {
    const centre = (begin + i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach * width + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach * width + 0.5), size);
    const values = [];
    for (let at = first; at < last; at++) values.push(filter((at - centre + 0.5) * (1 / width)));
    const total = values.reduce((sum, value) => sum + value, 0);
    const weights = values.map((value) => {
      const weight = (value / total) * UNIT;
      return Math.trunc(weight + (weight < 0 ? -0.5 : 0.5));
    });
    return { first, weights };
  });
}

// An image is {data, height, width}, data with three values a pixel, row by row.
function combineRows(image, rows) {
  const length = image.width * 3;
  const data = new Uint8ClampedArray(rows.length * length);
  const sums = new Float64Array(length);
  rows.forEach(({ first, weights }, row) => {
    sums.fill(UNIT / 2);
    weights.forEach((weight, tap) => {
      const from = (first + tap) * length;
      for (let x = 0; x < length; x++) sums[x] += image.data[from + x] * weight;
    });
    for (let x = 0; x < length; x++) data[row * length + x] = Math.floor(sums[x] / UNIT);
  });
  return { data, height: rows.length, width: image.width };
}

function combineColumns(image, columns) {
  const data = new Uint8ClampedArray(image.height * columns.length * 3);
  for (let row = 0, to = 0; row < image.height; row++) {
    for (const { first, weights } of columns) {
      const from = (row * image.width + first) * 3;
      for (let channel = 0; channel < 3; channel++) {
        let sum = UNIT / 2;
        for (let tap = 0; tap < weights.length; tap++) {
          sum += image.data[from + 3 * tap + channel] * weights[tap];
        }
        data[to++] = Math.floor(sum / UNIT);
      }
    }
  }
  return { data, height: image.height, width: columns.length };
}

// The evaluation transform: resized as Pillow does, to the pixel, and the centre of that cut out.
function seen(image) {
  const { size, crop_pct, crop_mode, crop_rounding, resample, do_resize } = page.processor;
  if (!do_resize) return image;
  const short = Math.trunc(size / crop_pct);
  let [height, width] = [short, short];
  if (crop_mode === null && size >= 384) {
    [height, width] = [size, size];
  } else if (crop_mode !== "squash" && image.height <= image.width) {
    width = Math.trunc((short * image.width) / image.height);
  } else if (crop_mode !== "squash") {
    height = Math.trunc((short * image.height) / image.width);
  }
  const [top, left] = [height - size, width - size].map((margin) => {
    const half = Math.floor(margin / 2);
    return crop_rounding === "round" && margin % 2 ? half + (half % 2) : half; // half to even
  });
  const rows = weightsOf(image.height, height, top, size, resample);
  const columns = weightsOf(image.width, width, left, size, resample);
  const [shorter, narrower] = [image.height - height, image.width - width];
  if (page.rows_first && resample !== NEAREST && shorter > Math.max(0, 2 * narrower)) {
    return combineColumns(combineRows(image, rows), columns);
  }
  // The first pass leaves out rows that no later one needs.
  const [first, last] = [rows[0].first, Math.max(...rows.map((row) => row.first + row.weights.length))];
  const data = image.data.subarray(first * image.width * 3, last * image.width * 3);
  const needed = combineColumns({ data, height: last - first, width: image.width }, columns);
  return combineRows(needed, rows.map((row) => ({ ...row, first: row.first - first })));
}

// Turned as its EXIF data say; its colour profile is not applied, as Pillow does not.
async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { height, width } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const colours = new Uint8ClampedArray(height * width * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    colours[to++] = data[from];
    colours[to++] = data[from + 1];
    colours[to++] = data[from + 2];
  }
  return { data: colours, height, width };
}

function tensorOf(image) {
  const { do_rescale, rescale_factor, do_normalize, image_mean, image_std } = page.processor;
  const count = image.height * image.width;
  const values = new Float32Array(3 * count);
  for (let channel = 0; channel < 3; channel++) {
    const [mean, std] = do_normalize ? [image_mean[channel], image_std[channel]] : [0, 1];
    const factor = do_rescale ? rescale_factor : 1;
    for (let i = 0; i < count; i++) {
      values[channel * count + i] = (image.data[3 * i + channel] * factor - mean) / std;
    }
  }
  return new ort.Tensor("float32", values, [1, 3, image.height, image.width]);
}

function scoresOf(logits) {
  if (page.function === "sigmoid") return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp(logit - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// What a page that was opened from a disk may load is what its own scripts have brought.
async function load() {
  const glue = new Blob([RUNTIME.glue], { type: "text/javascript" });
  ort.env.wasm.numThreads = 1; // more need headers that only a server can send
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
  ort.env.wasm.wasmBinary = bytesOf(RUNTIME.wasm).buffer;
  return ort.InferenceSession.create(bytesOf(MODEL));
}

const session = load();

// The top_k classes of the bytes of an image, best first, and what the model saw of it.
async function classify(blob) {
  const image = seen(await decode(blob));
  const { logits } = await (await session).run({ pixel_values: tensorOf(image) });
  const scores = scoresOf(Array.from(logits.data));
  const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
  const best = order.slice(0, page.top_k).map((i) => ({ label: page.labels[i], score: scores[i] }));
  return { best, image };
}

function show(image, best) {
  const pixels = new ImageData(image.width, image.height);
  for (let from = 0, to = 0; from < image.data.length; from += 3, to += 4) {
    pixels.data.set([...image.data.subarray(from, from + 3), 255], to);
  }
  Object.assign($("seen"), { width: image.width, height: image.height });
  $("seen").getContext("2d").putImageData(pixels, 0, 0);
  $("scores").replaceChildren(
    ...best.map(({ label, score }) => {
      const row = document.createElement("tr");
      const [name, value] = [document.createElement("th"), document.createElement("td")];
      name.scope = "row";
      name.textContent = label;
      value.textContent = `${(100 * score).toFixed(1)} %`;
      value.className = "bar";
      value.style.setProperty("--share", score);
      row.append(name, value);
      return row;
    }),
  );
  $("result").hidden = false;
}

async function look(blob) {
  const number = ++chosen;
  URL.revokeObjectURL($("whole").src);
  $("whole").src = URL.createObjectURL(blob);
  $("result").hidden = true;
  $("status").textContent = "Looking at it…";
  await new Promise((resume) => setTimeout(resume)); // so that this is shown
  const begun = performance.now();
  let said;
  try {
    const { best, image } = await classify(blob);
    if (number === chosen) show(image, best);
    said = `Named in ${Math.round(performance.now() - begun).toLocaleString("en")} ms.`;
  } catch (error) {
    const isImage = error.name !== "InvalidStateError";
    said = isImage ? `It did not run: ${error.message}` : "This browser cannot read it as an image.";
  }
  if (number === chosen) $("status").textContent = said;
}

$("file").addEventListener("change", ({ target }) => target.files.length && look(target.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
for (const [kind, where] of [["drop", "dataTransfer"], ["paste", "clipboardData"]]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    const [file] = event[where].files;
    if (file) look(file);
  });
}
session.then(
  () => { if (!chosen) $("status").textContent = "Ready."; },
  (error) => { $("status").textContent = `The model did not load: ${error.message}`; },
);

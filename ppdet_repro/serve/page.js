"use strict";
const byId = (id) => document.getElementById(id);
const canvas = byId("picture"), table = byId("boxes"), slider = byId("threshold"), picker = byId("file");
let image = null, found = null, latest = 0;

function say(text, isError) {
  byId("status").textContent = text;
  byId("status").className = isError ? "error" : "";
}

function color(classId) { return `hsl(${(30 + classId * 222.5) % 360} 90% 45%)`; }

function show() {
  const lowest = Number(slider.value);
  byId("shown").textContent = lowest.toFixed(2);
  if (!found) return;
  const boxes = found.boxes.filter((box) => box.score >= lowest);
  const pen = canvas.getContext("2d"), line = Math.max(2, Math.round(Math.max(found.width, found.height) / 400));
  canvas.width = found.width;
  canvas.height = found.height;
  if (image) pen.drawImage(image, 0, 0, found.width, found.height);
  pen.lineWidth = line;
  pen.font = `${8 * line}px sans-serif`;
  pen.textBaseline = "top";
  const rows = table.tBodies[0];
  rows.replaceChildren();
  for (const {class_id, name, score, box} of boxes) {
    const [x1, y1, x2, y2] = box, words = `${name} ${score.toFixed(2)}`;
    pen.strokeStyle = pen.fillStyle = color(class_id);
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const top = Math.max(0, y1 - 9 * line);
    pen.fillRect(x1, top, pen.measureText(words).width + 2 * line, 9 * line);
    pen.fillStyle = "white";
    pen.fillText(words, x1 + line, top);
    const row = rows.insertRow();
    for (const text of [name, score.toFixed(3), ...box.map((side) => side.toFixed(1))]) {
      row.insertCell().textContent = text;
    }
  }
  canvas.hidden = table.hidden = false;
  say(`${boxes.length} objects, ${found.milliseconds.inference.toFixed(0)} ms in the network`);
}

async function detect() {
  const file = picker.files[0], turn = ++latest;
  if (!file) return;
  found = null;
  canvas.hidden = table.hidden = true;
  say("Detecting ...");
  try {
    const response = await fetch("api/detect?threshold=0", {method: "POST", body: file});
    const answer = await response.json();
    if (turn !== latest) return;
    if (!response.ok) { say(typeof answer.detail === "string" ? answer.detail : "refused", true); return; }
    image = await createImageBitmap(file).catch(() => null);  // a TIFF: boxes without the image
    if (turn !== latest) return;
    found = answer;
    show();
  } catch (error) {
    if (turn === latest) say(`The server did not answer (${error.message}).`, true);
  }
}

picker.addEventListener("change", detect);
slider.addEventListener("input", show);
fetch("api/model").then((response) => response.json()).then((model) => {
  byId("about").textContent = `${model.architecture}, ${model.classes.length} classes. Images up to ` +
    `${(model.max_bytes / 2 ** 20).toFixed(0)} MB and ${(model.max_pixels / 1e6).toFixed(0)} million pixels.`;
  slider.value = model.draw_threshold;
  show();
});

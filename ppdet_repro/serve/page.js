import {asCoco, asJson, asVoc, asYolo} from "./formats.js";
import {color, View} from "./view.js";

const byId = (id) => document.getElementById(id);
const canvas = byId("picture"), slider = byId("threshold"), picker = byId("file"), list = byId("pictures");
const table = byId("boxes").tBodies[0], classList = byId("classes").querySelector("ul");
const view = new View(canvas, (scale) => { byId("zoom").textContent = `${Math.round(100 * scale)}%`; });
const FORMATS = {
  json: [asJson, "detections.json", "application/json"],
  coco: [asCoco, "detections_coco.json", "application/json"],
  voc: [asVoc, "detections_voc.zip", "application/zip"],
  yolo: [asYolo, "detections_yolo.zip", "application/zip"],
};
const THUMBNAIL = 96;  // pixels
const TRIES = 60;  // of a request to a server that is busy

let model = {classes: [], max_bytes: Infinity};
let pictures = [];  // {file, item, found, error}; `found` is the server's answer, with boxes of any score
let current = null, working = false;
const hidden = new Set();  // ids of classes

function count(number, word) {
  const several = word.endsWith("s") ? `${word}es` : `${word}s`;
  return `${number} ${number === 1 ? word : several}`;
}

function say(text, isError) {
  byId("status").textContent = text;
  byId("status").className = isError ? "error" : "";
}

function shownBoxes(picture) {
  const lowest = Number(slider.value);
  return picture.found.boxes.filter((box) => box.score >= lowest && !hidden.has(box.class_id));
}

// --- requests

function add(files) {
  const added = [...files].map((file) => ({file, item: listItem(file.name), found: null, error: null}));
  pictures.push(...added);
  for (const picture of added) picture.item.firstChild.addEventListener("click", () => select(picture));
  if (added.length) select(added[0]);
  if (!working) work();
}

async function work() {
  working = true;
  for (let next; (next = pictures.find((picture) => !picture.found && !picture.error));) {
    setState(next, "detecting ...");
    try {
      next.found = await detect(next.file);
      await drawThumbnail(next);
    } catch (error) {
      next.error = error.message || "refused";
    }
    if (pictures.includes(next)) finish(next);
  }
  working = false;
}

async function detect(file) {
  if (file.size > model.max_bytes) throw new Error(`the upload is larger than ${model.max_bytes} bytes`);
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch("api/detect?threshold=0", {method: "POST", body: file});
    } catch (error) {
      throw new Error(`the server did not answer (${error.message})`);
    }
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status !== 429 || tries === TRIES) throw new Error(String(answer.detail));
    await new Promise((resume) => setTimeout(resume, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
  }
}

function finish(picture) {
  if (picture === current) select(picture); else showState(picture);
}

// --- the list of pictures

function listItem(name) {
  const item = document.createElement("li"), button = document.createElement("button");
  const small = document.createElement("canvas"), words = document.createElement("span");
  small.width = small.height = THUMBNAIL;
  for (const [kind, text] of [["name", name], ["state", "waiting"]]) {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    words.append(span);
  }
  button.title = name;
  button.append(small, words);
  item.append(button);
  list.append(item);
  return item;
}

function setState(picture, text) { picture.item.querySelector(".state").textContent = text; }

function showState(picture) {
  picture.item.className = picture.error ? "failed" : "";
  if (picture.error) setState(picture, picture.error);
  if (picture.found) setState(picture, count(shownBoxes(picture).length, "object"));
}

async function drawThumbnail({file, item, found}) {
  const side = THUMBNAIL / Math.max(found.width, found.height);
  const width = Math.max(1, Math.round(found.width * side)), height = Math.max(1, Math.round(found.height * side));
  const options = {resizeWidth: width, resizeHeight: height, resizeQuality: "medium"};
  const image = await createImageBitmap(file, options).catch(() => null);  // a TIFF: no thumbnail
  if (!image) return;
  item.querySelector("canvas").getContext("2d").drawImage(image, (THUMBNAIL - width) / 2, (THUMBNAIL - height) / 2);
  image.close();
}

async function select(picture) {
  current = picture;
  for (const {item} of pictures) item.firstChild.setAttribute("aria-current", String(item === picture?.item));
  picture?.item.scrollIntoView({block: "nearest", inline: "nearest"});
  canvas.hidden = byId("results").hidden = !picture?.found;
  if (picture) showState(picture);
  if (!picture) say("Choose pictures, drop them here, or paste one.");
  else if (picture.error) say(`${picture.file.name}: ${picture.error}`, true);
  else if (!picture.found) say("Detecting ...");
  if (!picture?.found) return;
  const image = await createImageBitmap(picture.file).catch(() => null);  // a TIFF: boxes without the picture
  if (picture !== current) { image?.close(); return; }
  view.image?.close();
  view.show(image, picture.found.width, picture.found.height);
  show();
}

function remove(gone) {
  const index = pictures.indexOf(current);
  pictures = pictures.filter((picture) => !gone.includes(picture));
  for (const {item} of gone) item.remove();
  select(pictures[Math.min(index, pictures.length - 1)] ?? null);
}

function step(by) {
  const next = pictures[pictures.indexOf(current) + by];
  if (next) select(next);
}

// --- boxes

function show() {
  byId("shown").textContent = Number(slider.value).toFixed(2);
  for (const picture of pictures) if (picture.found) showState(picture);
  if (!current?.found) return;
  const boxes = shownBoxes(current), objects = count(boxes.length, "object");
  view.setBoxes(boxes);
  canvas.setAttribute("aria-label", `${current.file.name} with ${objects}`);
  table.replaceChildren(...boxes.map(tableRow));
  showClasses();
  const which = pictures.length > 1 ? `Picture ${pictures.indexOf(current) + 1} of ${pictures.length}: ` : "";
  say(`${which}${objects}, ${current.found.milliseconds.inference.toFixed(0)} ms in the network`);
}

function tableRow(item) {
  const row = document.createElement("tr");
  for (const text of [item.name, item.score.toFixed(3), ...item.box.map((side) => side.toFixed(1))]) {
    row.insertCell().textContent = text;
  }
  row.addEventListener("pointerenter", () => { row.className = "marked"; view.setBoxes(view.boxes, item); });
  row.addEventListener("pointerleave", () => { row.className = ""; view.setBoxes(view.boxes); });
  return row;
}

// The classes of all pictures' boxes that are at or above the threshold, and those that are hidden.
function listedClasses() {
  const lowest = Number(slider.value), found = pictures.flatMap((picture) => picture.found?.boxes ?? []);
  const ids = new Set([...found.filter((box) => box.score >= lowest).map((box) => box.class_id), ...hidden]);
  return [...ids].sort((a, b) => a - b);
}

function showClasses() {
  const lowest = Number(slider.value), boxes = current.found.boxes.filter((box) => box.score >= lowest);
  const focused = document.activeElement?.dataset?.classId;
  classList.replaceChildren(...listedClasses().map((id) => {
    const item = document.createElement("li"), label = document.createElement("label");
    const box = document.createElement("input"), swatch = document.createElement("span");
    Object.assign(box, {type: "checkbox", checked: !hidden.has(id)});
    box.dataset.classId = id;
    box.addEventListener("change", () => { hidden[box.checked ? "delete" : "add"](id); show(); });
    swatch.className = "swatch";
    swatch.style.backgroundColor = color(id);
    label.append(box, swatch, `${model.classes[id]}: ${boxes.filter((one) => one.class_id === id).length}`);
    item.append(label);
    return item;
  }));
  if (focused !== undefined) classList.querySelector(`[data-class-id="${focused}"]`)?.focus();
}

// --- files

function download(format) {
  const done = pictures.filter((picture) => picture.found);
  if (!done.length) { say("There are no detections to download yet.", true); return; }
  const [write, name, type] = FORMATS[format];
  const content = write(done.map((picture) => ({
    name: picture.file.name, width: picture.found.width, height: picture.found.height, boxes: shownBoxes(picture),
  })), model.classes);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- events

function setThreshold(value) {
  slider.value = value;
  show();
}

const KEYS = {
  "o": () => picker.click(),
  "ArrowLeft": () => step(-1), "ArrowRight": () => step(1),
  "[": () => setThreshold(Number(slider.value) - 0.05), "]": () => setThreshold(Number(slider.value) + 0.05),
  "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8), "0": () => view.fit(),
  "Delete": () => current && remove([current]),
};
const MOVES = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;  // moves the slider
  const move = event.shiftKey && MOVES[event.key], action = move ? () => view.move(...move) : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
picker.addEventListener("change", () => { add(picker.files); picker.value = ""; });
byId("choose").addEventListener("click", () => picker.click());
slider.addEventListener("input", show);
byId("larger").addEventListener("click", () => view.zoom(1.25));
byId("smaller").addEventListener("click", () => view.zoom(0.8));
byId("fit").addEventListener("click", () => view.fit());
byId("clear").addEventListener("click", () => remove(pictures));
byId("all").addEventListener("click", () => { hidden.clear(); show(); });
byId("none").addEventListener("click", () => { listedClasses().forEach((id) => hidden.add(id)); show(); });
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.className = "dropping"; });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.className = ""; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.className = "";
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));

fetch("api/model").then((response) => response.json()).then((answer) => {
  model = answer;
  byId("about").textContent = `${model.architecture}, ${count(model.classes.length, "class")}. Pictures up to ` +
    `${(model.max_bytes / 2 ** 20).toFixed(0)} MB and ${(model.max_pixels / 1e6).toFixed(0)} million pixels.`;
  setThreshold(model.draw_threshold);
}).catch((error) => say(`The server did not answer (${error.message}).`, true));

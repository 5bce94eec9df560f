// Detections as files. A picture is {name, width, height, boxes}, a box {class_id, name, score, box: [x1, y1, x2, y2]}.

export function asJson(pictures) {
  return JSON.stringify(pictures.map(({name, width, height, boxes}) => ({file: name, width, height, boxes})), null, 1);
}

// COCO's annotations, with scores. Categories have the ids 1, 2, ...
export function asCoco(pictures, classes) {
  const annotations = pictures.flatMap((picture, index) => picture.boxes.map(({class_id, score, box}) => {
    const [x1, y1, x2, y2] = box;
    return {image_id: index + 1, category_id: class_id + 1, bbox: [x1, y1, x2 - x1, y2 - y1],
            area: (x2 - x1) * (y2 - y1), iscrowd: 0, score};
  }));
  return JSON.stringify({
    images: pictures.map(({name, width, height}, index) => ({id: index + 1, file_name: name, width, height})),
    annotations: annotations.map((annotation, index) => ({id: index + 1, ...annotation})),
    categories: classes.map((name, index) => ({id: index + 1, name})),
  }, null, 1);
}

// PASCAL VOC: a zip file with an XML file per picture.
export function asVoc(pictures, classes) {
  const files = stems(pictures).map((stem, index) => [`Annotations/${stem}.xml`, xml(pictures[index])]);
  return zip([...files, ["label_list.txt", lines(classes)]]);
}

function xml({name, width, height, boxes}) {
  const objects = boxes.map(({name: label, box: [x1, y1, x2, y2]}) =>
    `  <object>\n    <name>${escaped(label)}</name>\n    <difficult>0</difficult>\n` +
    `    <bndbox><xmin>${x1.toFixed(2)}</xmin><ymin>${y1.toFixed(2)}</ymin>` +
    `<xmax>${x2.toFixed(2)}</xmax><ymax>${y2.toFixed(2)}</ymax></bndbox>\n  </object>\n`);
  return `<annotation>\n  <filename>${escaped(name)}</filename>\n` +
    `  <size><width>${width}</width><height>${height}</height><depth>3</depth></size>\n` +
    `${objects.join("")}</annotation>\n`;
}

function escaped(text) {
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "").replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
}

// YOLO: a zip file with a text file per picture, lines "class cx cy width height" as fractions of its size.
export function asYolo(pictures, classes) {
  const files = stems(pictures).map((stem, index) => [`labels/${stem}.txt`, lines(pictures[index].boxes.map(
    ({class_id, box}) => [class_id, ...fractions(box, pictures[index])].join(" ")))]);
  return zip([...files, ["classes.txt", lines(classes)]]);
}

function fractions(box, {width, height}) {
  const [x1, y1, x2, y2] = box.map((side, index) => {
    const size = index % 2 ? height : width;
    return Math.min(Math.max(side, 0), size) / size;
  });
  return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1].map((value) => value.toFixed(6));
}

function lines(texts) { return texts.map((text) => `${text}\n`).join(""); }

// Names without folder and suffix, no two alike.
export function stems(pictures) {
  const used = new Set();
  return pictures.map(({name}) => {
    const plain = name.replace(/^.*[\\/]/, "").replace(/\.[^.]*$/, "") || "picture";
    let stem = plain;
    for (let number = 2; used.has(stem.toLowerCase()); number++) stem = `${plain}_${number}`;
    used.add(stem.toLowerCase());
    return stem;
  });
}

const CRC = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// A zip file of [name, text] pairs, without compression. Source: PKWARE's APPNOTE, sections 4.3.7, 4.3.12 and 4.3.16.
export function zip(files) {
  const encoder = new TextEncoder(), parts = [], directory = [];
  const utf8 = 0x800, stored = 0, midnight = 0, firstDay = 0x21;  // 1 January 1980
  let offset = 0, directorySize = 0;
  for (const [name, text] of files) {
    const title = encoder.encode(name), data = encoder.encode(text);
    const fields = [[2, 20], [2, utf8], [2, stored], [2, midnight], [2, firstDay], [4, crc32(data)], [4, data.length],
                    [4, data.length], [2, title.length], [2, 0]];
    const head = packed([[4, 0x04034b50], ...fields]);
    parts.push(head, title, data);
    const entry = packed([[4, 0x02014b50], [2, 20], ...fields, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]);
    directory.push(entry, title);
    offset += head.length + title.length + data.length;
    directorySize += entry.length + title.length;
  }
  const end = packed([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, directorySize],
                      [4, offset], [2, 0]]);
  const whole = new Uint8Array(offset + directorySize + end.length);
  let position = 0;
  for (const part of [...parts, ...directory, end]) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

// Numbers of 2 or 4 bytes in little endian.
function packed(fields) {
  const bytes = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let position = 0;
  for (const [size, value] of fields) {
    if (size === 2) bytes.setUint16(position, value, true); else bytes.setUint32(position, value, true);
    position += size;
  }
  return new Uint8Array(bytes.buffer);
}

// The picture with its boxes on a canvas: drawing, zoom with the wheel, moving by dragging.

const MOST = 32, FIT_MOST = 8;  // largest zoom; largest zoom at which a small picture fits the canvas

export function color(classId) { return `hsl(${(30 + classId * 222.5) % 360} 90% 40%)`; }

export class View {
  // `zoomed` is called with the scale whenever it changes.
  constructor(canvas, zoomed) {
    Object.assign(this, {canvas, zoomed, image: null, width: 1, height: 1, boxes: [], marked: null, fitted: true});
    Object.assign(this, {scale: 1, x: 0, y: 0, waiting: false, drag: null});
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.offsetX, event.offsetY);
    }, {passive: false});
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = [event.clientX, event.clientY];
      canvas.classList.add("dragging");
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      this.move(event.clientX - this.drag[0], event.clientY - this.drag[1]);
      this.drag = [event.clientX, event.clientY];
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { this.drag = null; canvas.classList.remove("dragging"); });
    }
    canvas.addEventListener("dblclick", () => this.fit());
    new ResizeObserver(() => this.fitted ? this.fit() : this.draw()).observe(canvas);
  }

  // Show another picture; `image` is null if the browser cannot decode it.
  show(image, width, height) {
    Object.assign(this, {image, width, height});
    this.fit();
  }

  setBoxes(boxes, marked = null) {
    Object.assign(this, {boxes, marked});
    this.draw();
  }

  fit() {
    const {clientWidth, clientHeight} = this.canvas;
    if (!clientWidth) return;
    this.scale = Math.min(clientWidth / this.width, clientHeight / this.height, FIT_MOST);
    this.x = (clientWidth - this.width * this.scale) / 2;
    this.y = (clientHeight - this.height * this.scale) / 2;
    this.fitted = true;
    this.zoomed(this.scale);
    this.draw();
  }

  // Zoom around a point of the canvas, its center if none is given.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, 0.02), MOST), change = scale / this.scale;
    this.x = x - (x - this.x) * change;
    this.y = y - (y - this.y) * change;
    Object.assign(this, {scale, fitted: false});
    this.zoomed(scale);
    this.draw();
  }

  move(dx, dy) {
    Object.assign(this, {x: this.x + dx, y: this.y + dy, fitted: false});
    this.draw();
  }

  // Draw before the screen is refreshed; several calls draw once.
  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  paint() {
    const {canvas, scale, x, y} = this, ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.imageSmoothingEnabled = scale < 3;
    if (this.image) pen.drawImage(this.image, x, y, this.width * scale, this.height * scale);
    pen.font = "13px system-ui, sans-serif";
    pen.textBaseline = "top";
    for (const item of [...this.boxes].reverse()) this.paintBox(pen, item);  // the best score on top
    if (this.boxes.includes(this.marked)) this.paintBox(pen, this.marked);
  }

  paintBox(pen, item) {
    const [x1, y1, x2, y2] = item.box.map((side, index) => side * this.scale + (index % 2 ? this.y : this.x));
    const words = `${item.name} ${item.score.toFixed(2)}`, top = y1 >= 17 ? y1 - 17 : y1;
    pen.strokeStyle = pen.fillStyle = color(item.class_id);
    pen.lineWidth = item === this.marked ? 5 : 2;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.fillRect(x1, top, pen.measureText(words).width + 6, 17);
    pen.fillStyle = "white";
    pen.fillText(words, x1 + 3, top + 1);
  }
}

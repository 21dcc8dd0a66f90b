// Correction of the mask of a frozen picture by clicks and boxes. The corrected mask belongs to that picture and is
// discarded when the video continues. Used only with a promptable model.
import { contours } from "./contour.js";
import { unpack } from "./looks.js";

const DRAG_PX = 8; // less is a click
const make = (tag, properties, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

export class Correct {
  // `show(change)` replaces the frozen picture or its mask, `redraw()` draws it again.
  constructor(about, frame, { show, redraw }) {
    Object.assign(this, { about, frame, show, redraw, frozenId: null, steps: [], value: 1, positive: true, dragStart: null, requestId: 0 });
    this.panel();
    frame.addEventListener("pointerdown", (event) => this.press(event));
    frame.addEventListener("pointermove", (event) => this.drag(event));
    frame.addEventListener("pointerup", (event) => this.release(event));
    frame.addEventListener("pointercancel", () => { this.dragStart = this.dragEnd = null; redraw(); });
    frame.addEventListener("contextmenu", (event) => { if (this.frozenId !== null) event.preventDefault(); });
  }

  panel() {
    this.hint = make("p", { id: "correct-hint" });
    this.hint.setAttribute("role", "status");
    this.classButtons = this.about.classes.map(({ name, colour }, i) => {
      const swatch = make("i", {}), button = make("button", { type: "button" }, swatch, name);
      swatch.style.setProperty("--c", colour);
      button.onclick = () => { this.value = i + 1; this.showHint(); };
      return button;
    });
    this.signButtons = [["Belongs", true], ["Does not", false]].map(([text, positive]) => {
      const button = make("button", { type: "button", textContent: text });
      button.onclick = () => { this.positive = positive; this.showHint(); };
      return button;
    });
    const key = (text) => make("kbd", { textContent: text });
    this.undoButton = make("button", { type: "button", id: "undo", onclick: () => this.undo() }, "Undo ", key("Z"));
    this.saveButton = make("button", { type: "button", id: "keep", onclick: () => this.saveCase() }, "Save case ", key("Enter"));
    this.learnButton = make("button", { type: "button", id: "learn", onclick: () => this.learn() }, "Learn ", key("L"));
    const title = make("h3", { textContent: "Correct the mask" });
    this.tools = make("div", { id: "correct-tools" }, ...this.signButtons, this.undoButton, ...(this.about.correct.collect ? [this.saveButton] : []), ...(this.about.correct.adapt ? [this.learnButton] : []));
    const which = make("div", { id: "correct-classes", hidden: this.classButtons.length < 2 }, ...this.classButtons);
    document.getElementById("actions").after(make("section", { id: "correct" }, title, this.hint, which, this.tools));
    this.showHint();
  }

  // Called when the picture was frozen: it can be corrected if the server still stores it.
  async begin({ id, mask }) {
    const requestId = ++this.requestId;
    this.steps = [];
    this.showHint("One moment");
    const reply = await this.post("hold", { frame: id, mask: mask ? mask.id : -1 }, requestId);
    if (reply === null) return;
    const bitmap = reply.jpeg === null ? null : await createImageBitmap(reply.jpeg);
    if (requestId !== this.requestId) return;
    this.frozenId = reply.frame;
    this.show({ id: reply.frame, bitmap, mask: mask ?? null, corrected: false });
    this.first = this.mask = mask ?? null;
    this.showHint();
  }

  end() {
    this.requestId++;
    [this.frozenId, this.steps, this.dragStart, this.dragEnd] = [null, [], null, null];
    this.showHint();
  }

  press(event) {
    if (this.frozenId === null || event.button > 2 || event.button === 1) return;
    event.preventDefault();
    this.frame.setPointerCapture(event.pointerId);
    this.dragStart = this.dragEnd = this.position(event);
    this.pressedAt = [event.clientX, event.clientY];
  }

  drag(event) {
    if (this.dragStart === null) return;
    this.dragEnd = this.position(event);
    this.redraw();
  }

  release(event) {
    if (this.dragStart === null) return;
    const [a, b] = [this.dragStart, this.position(event)];
    const dragged = Math.abs(event.clientX - this.pressedAt[0]) > DRAG_PX && Math.abs(event.clientY - this.pressedAt[1]) > DRAG_PX;
    [this.dragStart, this.dragEnd] = [null, null];
    if (dragged) this.addStep({ class: this.value, box: [0, 1].map((k) => Math.min(a[k], b[k])).concat([0, 1].map((k) => Math.max(a[k], b[k]))) });
    else this.click(b, this.positive !== (event.altKey || event.button === 2));
  }

  // A negative click applies to the structure at this point, whichever structure is selected.
  click([x, y], on) {
    const { grid, width, height } = this.mask ?? { grid: [], width: 1, height: 1 };
    const there = grid[Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width))];
    this.addStep({ class: (!on && there) || this.value, click: [x, y, Number(on)] });
  }

  position(event) {
    const { left, top, width, height } = this.frame.querySelector("canvas").getBoundingClientRect();
    const inside = (fraction) => Math.min(1, Math.max(0, fraction));
    return [inside((event.clientX - left) / width), inside((event.clientY - top) / height)];
  }

  addStep(step) {
    if (this.steps.length >= this.about.correct.steps) return this.showHint("No more clicks on this picture");
    this.steps = [...this.steps, step];
    this.predict();
  }

  undo() {
    if (!this.steps.length) return;
    this.steps = this.steps.slice(0, -1);
    this.predict();
  }

  // A reply to an outdated request is not shown.
  async predict() {
    const requestId = ++this.requestId, steps = this.steps;
    if (!steps.length) {
      this.mask = this.first;
      this.show({ mask: this.first, corrected: false });
      return this.showHint();
    }
    this.showHint("One moment");
    const reply = await this.post("ask", { frame: this.frozenId, steps }, requestId);
    if (reply === null) return;
    const [height, width] = reply.mask_size;
    const drawn = this.mask = { id: this.frozenId, grid: reply.grid, height, width, paths: contours(reply.grid, height, width) };
    this.show({ mask: drawn, corrected: true });
    const boxed = steps[steps.length - 1].box;
    this.showHint(reply.followed ? "" : boxed ? "The model finds nothing in this box" : "The model disagrees; your click stands");
  }

  async saveCase() {
    if (!this.about.correct.collect || !this.steps.length) return;
    const reply = await this.post("keep", { frame: this.frozenId, steps: this.steps }, ++this.requestId);
    if (reply !== null) this.showHint(`Saved as ${reply.case}`);
  }

  // The head learns from the mask as it is now; without a click it is confirmed as it was shown.
  async learn() {
    if (!this.about.correct.adapt || this.frozenId === null) return;
    const reply = await this.post("learn", { frame: this.frozenId, steps: this.steps }, ++this.requestId);
    if (reply === null) return;
    const count = reply.patient.corrections;
    this.showHint(count < 3 ? `Noted; confirm ${3 - count} more` : `Learns from ${count} pictures`);
  }

  // Works at any time, not only on a frozen picture.
  async useShipped() {
    if (this.about.correct.adapt) await this.post("shipped", {}, this.requestId);
  }

  async post(name, body, requestId) {
    let reply = null, error = "EdgeMT does not answer";
    try {
      const response = await fetch(name, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: AbortSignal.timeout(10000),
      });
      if (response.ok) reply = unpack(await response.arrayBuffer());
      else error = (await response.text()).trim();
    } catch { /* shown below */ }
    if (requestId !== this.requestId) return null; // there is a newer request
    if (reply === null) {
      this.showHint(error);
      if (name === "ask") { this.steps = this.steps.slice(0, -1); this.redraw(); }
    }
    return reply;
  }

  showHint(text = "") {
    const ready = this.frozenId !== null;
    const usual = ready ? "Click what belongs to it, right or Alt click what does not, or drag a box around it; another box adds a piece." : "Freeze the picture first.";
    this.hint.textContent = text || usual;
    this.classButtons.forEach((button, i) => button.setAttribute("aria-pressed", this.value === i + 1));
    this.signButtons.forEach((button, i) => button.setAttribute("aria-pressed", this.positive === (i === 0)));
    this.undoButton.disabled = this.saveButton.disabled = !this.steps.length;
    this.learnButton.disabled = !ready;
    for (const button of [...this.classButtons, ...this.signButtons]) button.disabled = !ready;
    document.body.classList.toggle("correcting", ready);
    this.redraw();
  }

  // Marks of all clicks: a ring for a positive one, a line for a negative one.
  marks(pen, width, height, ratio) {
    const box = ([x0, y0, x1, y1]) => pen.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    const dragBox = this.dragStart === null ? [] : [{ box: [...this.dragStart, ...this.dragEnd] }];
    for (const [colour, thick] of [["#000c", 5], ["#fff", 2.2]]) {
      [pen.strokeStyle, pen.lineWidth] = [colour, thick * ratio];
      for (const step of [...this.steps, ...dragBox]) {
        pen.setLineDash(step.box ? [7 * ratio, 5 * ratio] : []);
        if (step.box) { box(step.box); continue; }
        const [x, y, on] = [step.click[0] * width, step.click[1] * height, step.click[2]];
        pen.beginPath();
        if (on) pen.arc(x, y, 6 * ratio, 0, 7);
        else { pen.moveTo(x - 7 * ratio, y); pen.lineTo(x + 7 * ratio, y); }
        pen.stroke();
      }
    }
    pen.setLineDash([]);
  }
}

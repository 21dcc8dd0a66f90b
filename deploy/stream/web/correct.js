// Clicks and boxes on a frozen picture, and the mask that the model makes of them. It belongs to that picture alone:
// going on throws it away. Made only where the model takes corrections.
import { contours } from "./contour.js";
import { unpack } from "./looks.js";

const DRAG_PX = 8; // less is a click
const make = (tag, properties, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

export class Correct {
  // `show(change)` puts a picture or a mask on the frozen picture, `redraw()` draws it again.
  constructor(about, frame, { show, redraw }) {
    Object.assign(this, { about, frame, show, redraw, held: null, steps: [], value: 1, add: true, from: null, turn: 0 });
    this.panel();
    frame.addEventListener("pointerdown", (event) => this.press(event));
    frame.addEventListener("pointermove", (event) => this.drag(event));
    frame.addEventListener("pointerup", (event) => this.release(event));
    frame.addEventListener("pointercancel", () => { this.from = this.to = null; redraw(); });
    frame.addEventListener("contextmenu", (event) => { if (this.held !== null) event.preventDefault(); });
  }

  panel() {
    this.hint = make("p", { id: "correct-hint" });
    this.hint.setAttribute("role", "status");
    this.picks = this.about.classes.map(({ name, colour }, i) => {
      const swatch = make("i", {}), button = make("button", { type: "button" }, swatch, name);
      swatch.style.setProperty("--c", colour);
      button.onclick = () => { this.value = i + 1; this.tell(); };
      return button;
    });
    this.signs = [["Belongs", true], ["Does not", false]].map(([text, add]) => {
      const button = make("button", { type: "button", textContent: text });
      button.onclick = () => { this.add = add; this.tell(); };
      return button;
    });
    const key = (text) => make("kbd", { textContent: text });
    this.back = make("button", { type: "button", id: "undo", onclick: () => this.undo() }, "Undo ", key("Z"));
    this.save = make("button", { type: "button", id: "keep", onclick: () => this.keep() }, "Save case ", key("Enter"));
    const title = make("h3", { textContent: "Correct the mask" });
    this.tools = make("div", { id: "correct-tools" }, ...this.signs, this.back, ...(this.about.correct.collect ? [this.save] : []));
    const which = make("div", { id: "correct-classes", hidden: this.picks.length < 2 }, ...this.picks);
    document.getElementById("actions").after(make("section", { id: "correct" }, title, this.hint, which, this.tools));
    this.tell();
  }

  // The picture was frozen: from here on it can be corrected, if the server still has it.
  async begin({ id, mask }) {
    const turn = ++this.turn;
    this.steps = [];
    this.tell("One moment");
    const held = await this.post("hold", { frame: id, mask: mask ? mask.id : -1 }, turn);
    if (held === null) return;
    const bitmap = held.jpeg === null ? null : await createImageBitmap(held.jpeg);
    if (turn !== this.turn) return;
    this.held = held.frame;
    this.show({ id: held.frame, bitmap, mask: mask ?? null, corrected: false });
    this.first = this.mask = mask ?? null;
    this.tell();
  }

  end() {
    this.turn++;
    [this.held, this.steps, this.from, this.to] = [null, [], null, null];
    this.tell();
  }

  press(event) {
    if (this.held === null || event.button > 2 || event.button === 1) return;
    event.preventDefault();
    this.frame.setPointerCapture(event.pointerId);
    this.from = this.to = this.at(event);
    this.start = [event.clientX, event.clientY];
  }

  drag(event) {
    if (this.from === null) return;
    this.to = this.at(event);
    this.redraw();
  }

  release(event) {
    if (this.from === null) return;
    const [a, b] = [this.from, this.at(event)];
    const far = Math.abs(event.clientX - this.start[0]) > DRAG_PX && Math.abs(event.clientY - this.start[1]) > DRAG_PX;
    [this.from, this.to] = [null, null];
    if (far) this.put({ class: this.value, box: [0, 1].map((k) => Math.min(a[k], b[k])).concat([0, 1].map((k) => Math.max(a[k], b[k]))) });
    else this.click(b, this.add !== (event.altKey || event.button === 2));
  }

  // "Does not belong" is said of the structure that lies there, whichever is chosen.
  click([x, y], on) {
    const { grid, width, height } = this.mask ?? { grid: [], width: 1, height: 1 };
    const there = grid[Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width))];
    this.put({ class: (!on && there) || this.value, click: [x, y, Number(on)] });
  }

  at(event) {
    const { left, top, width, height } = this.frame.querySelector("canvas").getBoundingClientRect();
    const inside = (share) => Math.min(1, Math.max(0, share));
    return [inside((event.clientX - left) / width), inside((event.clientY - top) / height)];
  }

  put(step) {
    if (this.steps.length >= this.about.correct.steps) return this.tell("No more clicks on this picture");
    this.steps = [...this.steps, step];
    this.ask();
  }

  undo() {
    if (!this.steps.length) return;
    this.steps = this.steps.slice(0, -1);
    this.ask();
  }

  // An answer that another question has overtaken is not shown.
  async ask() {
    const turn = ++this.turn, steps = this.steps;
    if (!steps.length) {
      this.mask = this.first;
      this.show({ mask: this.first, corrected: false });
      return this.tell();
    }
    this.tell("One moment");
    const said = await this.post("ask", { frame: this.held, steps }, turn);
    if (said === null) return;
    const [height, width] = said.mask_size;
    const drawn = this.mask = { id: this.held, grid: said.grid, height, width, paths: contours(said.grid, height, width) };
    this.show({ mask: drawn, corrected: true });
    const boxed = steps[steps.length - 1].box;
    this.tell(said.followed ? "" : boxed ? "The model finds nothing in this box" : "The model disagrees; your click stands");
  }

  async keep() {
    if (!this.about.correct.collect || !this.steps.length) return;
    const said = await this.post("keep", { frame: this.held, steps: this.steps }, ++this.turn);
    if (said !== null) this.tell(`Saved as ${said.case}`);
  }

  async post(name, question, turn) {
    let said = null, refused = "EdgeMT does not answer";
    try {
      const response = await fetch(name, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal: AbortSignal.timeout(10000),
      });
      if (response.ok) said = unpack(await response.arrayBuffer());
      else refused = (await response.text()).trim();
    } catch { /* told below */ }
    if (turn !== this.turn) return null; // something else was asked since
    if (said === null) {
      this.tell(refused);
      if (name === "ask") { this.steps = this.steps.slice(0, -1); this.redraw(); }
    }
    return said;
  }

  tell(text = "") {
    const ready = this.held !== null;
    const usual = ready ? "Click what belongs to it, right or Alt click what does not, or drag a box around it; another box adds a piece." : "Freeze the picture first.";
    this.hint.textContent = text || usual;
    this.picks.forEach((button, i) => button.setAttribute("aria-pressed", this.value === i + 1));
    this.signs.forEach((button, i) => button.setAttribute("aria-pressed", this.add === (i === 0)));
    this.back.disabled = this.save.disabled = !this.steps.length;
    for (const button of [...this.picks, ...this.signs]) button.disabled = !ready;
    document.body.classList.toggle("correcting", ready);
    this.redraw();
  }

  // Where it was clicked; a ring for what belongs to it, a bar for what does not.
  marks(pen, width, height, ratio) {
    const box = ([x0, y0, x1, y1]) => pen.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    const dragged = this.from === null ? [] : [{ box: [...this.from, ...this.to] }];
    for (const [colour, thick] of [["#000c", 5], ["#fff", 2.2]]) {
      [pen.strokeStyle, pen.lineWidth] = [colour, thick * ratio];
      for (const step of [...this.steps, ...dragged]) {
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

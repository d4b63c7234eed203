// A table as a picture that folds, zooms and can be pointed at.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function make(parent, name, attributes = {}, text = null) {
  const svg = parent instanceof SVGElement || name === "svg";
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

const canvas = document.createElement("canvas").getContext("2d");

function widthOf(text, font = "500 13px system-ui, sans-serif") {
  canvas.font = font;
  return canvas.measureText(text).width;
}

class Drawing {
  /**
   * @param parent what it is put into
   * @param table what is drawn
   * @param on what is called: `point(kind, thing, event)`, `leave()`, `fold(scope)`, `pick(state)`, `moved(view)`
   */
  constructor(parent, table, on) {
    this.table = table;
    this.on = on;
    this.withCounts = false;
    this.elements = new Map();
    this.svg = make(parent, "svg", { class: "drawing", role: "img" });
    make(this.svg, "title", {}, `The lifecycle ${table.name}`);
    const defs = make(this.svg, "defs");
    for (const kind of ["hot", "main", "plain", "failure", "event", "lit"]) {
      const marker = make(defs, "marker", {
        id: `tip-${kind}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerUnits: "userSpaceOnUse",
        markerWidth: kind === "hot" || kind === "lit" ? 10 : 8, markerHeight: kind === "hot" || kind === "lit" ? 10 : 8, orient: "auto",
      });
      make(marker, "path", { d: "M0,0.6L8,4L0,7.4z", class: `tip ${kind}` });
    }
    this.layer = make(this.svg, "g", { class: "layer" });
    this.groups = Object.fromEntries(["scopes", "lines", "boxes", "dots"].map((name) => [name, make(this.layer, "g", { class: name })]));
    this.view = { x: 0, y: 0, scale: 1 };
    this.listen();
  }

  // ------------------------------------------------------------ what is drawn

  draw(folded) {
    const shown = shownOf(this.table, folded), placed = layOut(shown, widthOf, this.withCounts);
    this.shown = shown;
    this.placed = placed;
    const kept = new Set();
    for (const box of placed.boxes.values()) {
      kept.add(`box ${box.name}`);
      this.drawBox(box);
    }
    for (const [name, at] of placed.dots) {
      kept.add(`dot ${name}`);
      const dot = this.element(`dot ${name}`, "dots", () => make(this.groups.dots, "circle", { r: SIZE.dot / 2, class: name.endsWith(".events") ? "event" : "" }));
      dot.style.transform = `translate(${at[0]}px, ${at[1]}px)`;
    }
    for (const line of placed.lines) {
      kept.add(`line ${line.key}`);
      this.drawLine(line);
    }
    for (const [key, element] of this.elements) {
      if (kept.has(key)) continue;
      element.remove();
      this.elements.delete(key);
    }
    return placed;
  }

  element(key, group, create) {
    if (!this.elements.has(key)) {
      const element = create();
      this.elements.set(key, element);
    }
    return this.elements.get(key);
  }

  drawBox(box) {
    const { name } = box, isScope = this.shown.scopes.has(name), isOpen = this.shown.open.has(name);
    const known = this.elements.get(`box ${name}`);
    if (known && known.dataset.open !== String(isOpen)) {
      known.remove();
      this.elements.delete(`box ${name}`);
    }
    const group = this.element(`box ${name}`, "boxes", () => this.makeBox(box, isScope, isOpen));
    const x = box.x - box.left, width = box.left + box.right, height = box.bottom - box.top;
    group.style.transform = `translate(${x}px, ${box.top}px)`;
    for (const rect of group.querySelectorAll("rect")) {
      const inset = Number(rect.dataset.inset ?? 0);
      rect.style.width = `${width - 2 * inset}px`;
      rect.style.height = `${height - 2 * inset}px`;
    }
    const title = group.querySelector(".name");
    if (title && !isOpen) {
      title.setAttribute("x", width / 2);
      title.setAttribute("y", height / 2 + (this.withCounts && name !== FAILED ? -2 : 4.5));
      const count = group.querySelector(".count");
      count.setAttribute("x", width / 2);
      count.setAttribute("y", height / 2 + 12);
    }
  }

  makeBox({ name }, isScope, isOpen) {
    const state = this.shown.states.get(name);
    const kinds = [isOpen ? "scope" : "state"];
    if (name === START) return make(this.groups.dots, "circle", { class: "start", r: SIZE.dot / 2, cx: SIZE.dot / 2, cy: SIZE.dot / 2 });
    if (state?.final) kinds.push("final");
    if (state?.anchor) kinds.push("anchor");
    if (state?.hot) kinds.push("hot");
    if (name === FAILED) kinds.push("failed");
    if (isScope && !isOpen) kinds.push("folded");
    const parent = isOpen ? this.groups.scopes : this.groups.boxes;
    const group = make(parent, "g", { class: kinds.join(" "), "data-name": name, "data-open": isOpen, tabindex: 0 });
    if (isOpen) group.dataset.depth = Math.min(4, this.depthOf(name));
    make(group, "rect", { rx: isOpen ? 12 : 9 });
    if (state?.final || name === FAILED) make(group, "rect", { rx: 7, x: 3, y: 3, class: "ring", "data-inset": 3 });
    if (isOpen) {
      make(group, "text", { class: "name", x: 24, y: 19 }, name);
      make(group, "path", { class: "handle", d: "M10,11l4,5l4,-5" });
    } else {
      make(group, "text", { class: "name" }, name);
      make(group, "text", { class: "count" });
      if (isScope) make(group, "path", { class: "handle", d: "M7,9l5,4l-5,4" });
      make(group, "circle", { class: "break", r: 4.5, cx: 0, cy: 0 });
    }
    return group;
  }

  depthOf(name) {
    let depth = 0;
    for (let at = this.shown.states.get(name)?.within; at; at = this.shown.states.get(at).within) depth += 1;
    return depth;
  }

  drawLine(line) {
    const group = this.element(`line ${line.key}`, "lines", () => {
      const made = make(this.groups.lines, "g", { class: `line ${line.kind}`, "data-key": line.key });
      make(made, "path", { class: "halo" });
      make(made, "path", { class: "stroke", "marker-end": `url(#tip-${line.kind})` });
      make(made, "path", { class: "reach" });
      return made;
    });
    const d = rounded(line.points);
    if (group.dataset.d === d) return;
    group.dataset.d = d;
    for (const path of group.querySelectorAll("path")) path.setAttribute("d", d);
    group.classList.remove("fresh");
    void group.getBoundingClientRect();
    group.classList.add("fresh");
  }

  // ------------------------------------------------------------ what a run adds

  /**
   * Shows a moment of a run.
   * @param moment `{ current, entered, shares, trail, counts }`; null for no run
   */
  show(moment) {
    const homes = this.shown.homes, home = (name) => homes.get(name) ?? name;
    const entered = new Map(), shares = new Map();
    const open = new Set();
    if (moment?.current) {
      for (let at = moment.current; at; at = this.shown.states.get(at)?.within) open.add(home(at));
    }
    for (const [name, share] of moment?.shares ?? []) shares.set(home(name), (shares.get(home(name)) ?? 0) + share);
    for (const [name, times] of moment?.entered ?? []) if (home(name) === name) entered.set(name, times);
    for (const [key, element] of this.elements) {
      if (!key.startsWith("box ") || !element.dataset.name) continue;
      const { name } = element.dataset, times = entered.get(name) ?? 0;
      element.classList.toggle("current", moment?.current != null && home(moment.current) === name);
      element.classList.toggle("open", open.has(name));
      element.classList.toggle("never", moment !== null && !times && name !== FAILED);
      element.style.setProperty("--heat", Math.sqrt(shares.get(name) ?? 0).toFixed(3));
      const count = element.querySelector(".count");
      if (count) count.textContent = moment && name !== FAILED ? times.toLocaleString("en") : "";
    }
    const trail = new Map((moment?.trail ?? []).map((arrow, age) => [arrow, age]));
    for (const line of this.placed.lines) {
      const element = this.elements.get(`line ${line.key}`);
      const ages = line.arrows.filter((arrow) => trail.has(arrow)).map((arrow) => trail.get(arrow));
      const taken = moment ? line.arrows.reduce((sum, arrow) => sum + moment.counts[arrow], 0) : 1;
      element.classList.toggle("lit", ages.length > 0);
      element.classList.toggle("last", ages.includes(0));
      element.classList.toggle("never", !taken);
      element.style.setProperty("--age", ages.length ? Math.min(...ages) : 0);
      element.querySelector(".stroke").setAttribute("marker-end", `url(#tip-${ages.includes(0) ? "lit" : line.kind})`);
    }
  }

  mark(breakpoints) {
    for (const [key, element] of this.elements) {
      if (key.startsWith("box ")) element.classList.toggle("breaks", breakpoints.has(element.dataset.name));
    }
  }

  // ------------------------------------------------------------ zoom and pan

  /** Shows all of the picture; `anew` also when the reader has moved it, as a button does. */
  fit(anew = false) {
    if (anew) this.touched = false;
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || !this.placed) return;
    const scale = Math.min(1.25, (width - 32) / this.placed.width, (height - 32) / this.placed.height);
    this.look({ scale, x: (width - this.placed.width * scale) / 2, y: Math.max(16, (height - this.placed.height * scale) / 2) });
  }

  look(view, silent = false) {
    this.view = view;
    this.layer.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    if (!silent) this.on.moved?.(view);
  }

  zoom(factor, x, y) {
    const { view } = this, scale = Math.min(4, Math.max(0.08, view.scale * factor)), by = scale / view.scale;
    this.look({ scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by });
  }

  listen() {
    const { svg } = this;
    let from = null, moved = false;
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.touched = true;
      const box = svg.getBoundingClientRect();
      this.layer.classList.remove("gliding");
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    svg.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX - this.view.x, y: event.clientY - this.view.y };
      moved = false;
    });
    svg.addEventListener("pointermove", (event) => {
      if (!from || !(event.buttons & 1)) {
        from = null;
        this.hover(event);
        return;
      }
      const x = event.clientX - from.x, y = event.clientY - from.y;
      if (!moved && Math.hypot(x - this.view.x, y - this.view.y) < 4) return;
      moved = true;
      this.touched = true;
      this.on.leave();
      svg.setPointerCapture(event.pointerId);
      this.layer.classList.remove("gliding");
      this.look({ ...this.view, x, y });
    });
    svg.addEventListener("pointerup", () => (from = null));
    svg.addEventListener("pointerleave", () => this.on.leave());
    svg.addEventListener("click", (event) => {
      if (!moved) this.choose(event.target.closest("[data-name]"));
    });
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.choose(event.target.closest("[data-name]"));
      }
    });
    svg.addEventListener("focusin", (event) => this.hover(event));
    svg.addEventListener("focusout", () => this.on.leave());
  }

  choose(group) {
    if (!group) return;
    const { name } = group.dataset;
    if (this.shown.scopes.has(name)) this.on.fold(name);
    else this.on.pick(name);
  }

  hover(event) {
    const box = event.target.closest?.("[data-name]"), line = event.target.closest?.("[data-key]");
    if (box) this.on.point("state", box.dataset.name, event);
    else if (line) this.on.point("line", this.placed.lines.find((one) => one.key === line.dataset.key), event);
    else this.on.leave();
  }
}

// The page: pictures of one or two runs, what is pointed at, curves, rows, and the time line.
"use strict";

const TRAIL = 12; // transitions that light up
const POLL = 500; // milliseconds from one question for news to the next
const ROWS = 60; // of the history that are listed
const LATER = 3; // of them that come after the moment that is shown

class Page {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.folded = new Set();
    this.breakpoints = new Set();
    this.position = 0;
    this.following = true;
    this.playing = null;
    this.runs = data.runs.map((record, i) => new Run(data.tables[i], record));
    this.build();
    this.refold();
    requestAnimationFrame(() => {
      this.drawings.forEach((drawing) => drawing.fit());
      this.layersGlide();
      this.goTo(this.longest());
      root.dataset.ready = "yes";
    });
    if (data.source) this.ask();
  }

  longest() {
    return Math.max(0, ...this.runs.map((run) => run.length));
  }

  // ------------------------------------------------------------ parts of the page

  build() {
    const { root, data } = this;
    root.classList.toggle("two", data.tables.length > 1);
    const head = make(root, "header");
    make(head, "h1", {}, data.title);
    this.chips = make(head, "div", { class: "chips" });
    const tools = make(head, "div", { class: "tools" });
    const button = (text, title, work, parent = tools) => {
      const made = make(parent, "button", { type: "button", title }, text);
      made.addEventListener("click", work);
      return made;
    };
    button("Fold all", "Fold every scope within the outermost ones", () => this.foldAll());
    button("Unfold all", "Show every state", () => this.setFolded(new Set()));
    button("Fit", "Show all of the picture", () => this.drawings.forEach((one) => one.fit(true)));
    button("◐", "Light or dark", () => this.turnTheme()).setAttribute("aria-label", "Light or dark");
    if (data.control) this.buildControl(head, button);
    const main = make(root, "main");
    const panes = make(main, "div", { class: "panes" });
    this.drawings = data.tables.map((table, i) => {
      const pane = make(panes, "section", { class: "pane" });
      if (data.tables.length > 1) make(pane, "h2", {}, data.names[i]);
      return new Drawing(pane, table, {
        point: (kind, thing, event) => this.point(i, kind, thing, event),
        leave: () => this.leave(),
        fold: (scope) => this.toggleFold(scope),
        pick: (state) => this.pick(state),
        moved: (view) => this.drawings.forEach((one) => one !== this.drawings[i] && one.look(view, true)),
      });
    });
    this.drawings.forEach((drawing) => (drawing.withCounts = this.runs.length > 0));
    this.buildLegend(panes, button);
    if (this.runs.length) this.buildSide(main);
    this.card = make(root, "div", { class: "card", role: "tooltip", hidden: "" });
    if (this.runs.length) this.buildTimeline(button);
    else make(root, "footer", { class: "hint" }, "Point at a state or an arrow to read what it does. Click a scope to fold it, scroll to zoom, drag to move.");
    // The time line grows with the decisions of a run, and leaves the picture less room
    const resized = new ResizeObserver(() => this.redraw());
    [root, panes].forEach((element) => resized.observe(element));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  buildLegend(panes, button) {
    const box = make(panes, "div", { class: "legend" });
    box.hidden = this.runs.length > 0 || innerWidth < 900;
    const turn = button("Legend", "What the colours mean", () => turn.setAttribute("aria-expanded", !(box.hidden = !box.hidden)));
    turn.setAttribute("aria-expanded", !box.hidden);
    const [{ legend, legend_of_runs }] = this.data.tables;
    const entries = [...legend, ...(this.runs.length ? [...legend_of_runs, { kind: "line", colour: "never", text: "not taken so far" }] : [])];
    for (const { kind, colour, text } of entries) {
      const line = make(box, "div");
      make(line, "i", { class: `sample ${kind} ${colour}` });
      line.append(text);
    }
  }

  buildSide(main) {
    const side = make(main, "aside");
    this.curves = make(side, "div", { class: "curves" });
    this.tables = this.runs.map((run, i) => {
      const box = make(side, "div", { class: "rows" });
      if (this.runs.length > 1) make(box, "h2", {}, this.data.names[i]);
      return make(box, "table");
    });
  }

  buildTimeline(button) {
    const footer = make(this.root, "footer");
    const bar = make(footer, "div", { class: "bar" });
    button("|◂", "To the beginning (Home)", () => this.goTo(0), bar);
    button("◂", "One transition back (left arrow)", () => this.goTo(this.position - 1), bar);
    this.play = button("▶", "Play (space)", () => this.togglePlay(), bar);
    button("▸", "One transition on (right arrow)", () => this.goTo(this.position + 1), bar);
    button("▸|", "To the end (End)", () => this.goTo(this.longest()), bar);
    if (this.runs.length > 1) {
      this.parting = partingOf(...this.runs);
      const text = this.parting === null ? "The runs take the same transitions" : `The runs part at ${(this.parting + 1 + this.runs[0].base).toLocaleString("en")}`;
      this.partingButton = button(text, "Go to the first transition that differs", () => this.goTo(this.parting + 1), bar);
      this.partingButton.classList.add("parting");
      this.partingButton.disabled = this.parting === null;
    }
    this.where = make(bar, "span", { class: "where" });
    this.timeline = new Timeline(make(footer, "canvas", { class: "timeline" }), {
      scrub: (position) => this.goTo(position),
      moved: () => this.drawTimeline(),
    });
    this.timeline.setRuns(this.runs);
    this.root.tabIndex = -1;
    document.addEventListener("keydown", (event) => this.press(event));
  }

  buildControl(head, button) {
    const box = make(head, "div", { class: "control" });
    const tell = (what) => () => this.tell({ do: what });
    this.control = box;
    if (this.data.control === "steps") {
      button("Step", "Take one transition", tell("step"), box);
      button("Run", "Go on to the next breakpoint", tell("go"), box);
      button("Pause", "Pause before the next transition", tell("pause"), box);
    }
    button("Stop after this batch", "Ask the run to stop: the guard `stop now` reads it at the next loop head", tell("stop"), box);
  }

  // ------------------------------------------------------------ folding

  foldAll() {
    const scopes = new Set(this.data.tables.flatMap((table) => table.states.map((state) => state.within)).filter(Boolean));
    const outer = new Set(this.data.tables.flatMap((table) => table.states.filter((state) => !state.within).map((state) => state.name)));
    this.setFolded(new Set([...scopes].filter((name) => !outer.has(name))));
  }

  toggleFold(scope) {
    const folded = new Set(this.folded);
    if (!folded.delete(scope)) folded.add(scope);
    this.setFolded(folded);
  }

  setFolded(folded) {
    this.folded = folded;
    this.leave();
    this.layersGlide();
    this.refold();
    this.drawings.forEach((drawing) => drawing.fit(true));
  }

  layersGlide() {
    this.drawings.forEach((drawing) => drawing.layer.classList.add("gliding"));
  }

  refold() {
    this.drawings.forEach((drawing) => drawing.draw(this.folded));
    this.showMoment();
  }

  // ------------------------------------------------------------ time

  goTo(position) {
    const end = this.longest();
    this.position = Math.max(0, Math.min(end, position));
    this.following = this.position === end;
    this.timeline?.follow(this.position);
    // Once a frame is enough, however often the pointer moves
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.showMoment();
    });
  }

  press(event) {
    if (event.target.matches?.("input, textarea, [data-name]")) return;
    const jumps = { ArrowLeft: this.position - 1, ArrowRight: this.position + 1, Home: 0, End: this.longest() };
    if (event.key in jumps) this.goTo(jumps[event.key]);
    else if (event.key === " ") this.togglePlay();
    else return;
    event.preventDefault();
  }

  togglePlay() {
    if (this.playing) {
      cancelAnimationFrame(this.playing);
      this.playing = null;
      this.play.textContent = "▶";
      return;
    }
    if (this.position >= this.longest()) this.goTo(this.timeline.range[0]);
    let last = performance.now(), exact = this.position;
    const [low, high] = this.timeline.range, speed = Math.max(6, (high - low) / 20000 * 1000);
    const frame = (now) => {
      exact += ((now - last) / 1000) * speed;
      last = now;
      if (Math.floor(exact) !== this.position) this.goTo(Math.floor(exact));
      if (this.position >= this.longest()) this.togglePlay();
      else this.playing = requestAnimationFrame(frame);
    };
    this.play.textContent = "❚❚";
    this.playing = requestAnimationFrame(frame);
  }

  momentOf(run, position) {
    const end = Math.min(run.length, Math.max(0, position)), counts = run.countsAt(end);
    const trail = [];
    for (let i = end - 1; i >= Math.max(0, end - TRAIL); i -= 1) if (!trail.includes(run.path[i])) trail.push(run.path[i]);
    const spent = run.spentAt(end), states = run.spentByState(spent);
    const total = [...spent.values()].reduce((sum, seconds) => sum + seconds, 0);
    return {
      end, counts, trail, spent, states, total, current: run.stateAt(end), entered: run.enteredAt(counts),
      shares: total ? [...states].map(([name, seconds]) => [name, seconds / total]) : [],
    };
  }

  showMoment() {
    if (!this.drawings) return;
    this.moments = this.runs.map((run) => this.momentOf(run, this.position - (run.base - this.runs[0].base)));
    this.drawings.forEach((drawing, i) => {
      drawing.show(this.moments[i] ?? null);
      drawing.mark(this.breakpoints);
    });
    if (!this.runs.length) return;
    this.showWhere();
    this.drawTimeline();
    this.showChips();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.showRows(), this.playing ? 200 : 30);
  }

  showWhere() {
    const [run] = this.runs, [moment] = this.moments, counters = run.countersAt(moment.end);
    const parts = [`transition ${(moment.end + run.base).toLocaleString("en")} of ${(run.length + run.base).toLocaleString("en")}`];
    if (counters) parts.push(`epoch ${counters[1]}`, `step ${counters[4].toLocaleString("en")}`, `${counters[5].toLocaleString("en")} samples`);
    const seconds = run.secondsAt(moment.end);
    if (seconds !== null) parts.push(shortTime(seconds));
    const taken = this.runs.map((one, i) => this.takenLast(one, this.moments[i].end));
    parts.push([...new Set(taken)].filter(Boolean).join(" ≠ ")); // more than one after two runs have parted
    this.where.textContent = parts.filter(Boolean).join("  ·  ");
  }

  takenLast(run, end) {
    if (!end) return "";
    const { source, dest, guard, event } = run.arrows[run.path[end - 1]];
    return `${source} → ${dest}${guard ? ` [${guard}]` : ""}${event ? ` on ${event}` : ""}`;
  }

  showChips() {
    const about = this.runs.map((run) => run.about);
    const name = (i) => (about.length > 1 ? `${this.data.names[i]}: ` : "");
    const words = about.map(({ outcome, seconds }, i) => name(i) + (outcome ? `${outcome.word}${seconds ? ` after ${shortTime(seconds)}` : ""}` : this.data.source ? this.status ?? "running" : "unfinished"));
    const text = words.join("\n");
    if (about[0].outcome) this.control?.querySelectorAll("button").forEach((made) => (made.disabled = true));
    if (this.chips.dataset.text === text) return;
    this.chips.dataset.text = text;
    this.chips.replaceChildren();
    about.forEach(({ outcome }, i) => {
      const chip = make(this.chips, "span", { class: `chip ${outcome?.word ?? "running"}`, title: outcome?.why ?? "" }, words[i]);
      if (outcome?.why) make(this.chips, "span", { class: "why" }, outcome.why);
      return chip;
    });
  }

  drawTimeline() {
    this.timeline?.draw(this.position, this.parting ?? null);
  }

  // ------------------------------------------------------------ rows and curves

  showRows() {
    const counts = this.runs.map((run, i) => run.rowsAt(this.moments[i].end));
    const rows = `${counts} of ${this.runs.map((run) => run.rows.length)}`, { dataset } = this.root;
    const hasValues = this.runs.some((run) => Object.keys(run.values).length);
    const curves = rows + (hasValues ? ` ${this.position} of ${this.longest()}` : "");
    if (dataset.rows !== rows) this.runs.forEach((run, i) => this.showTable(this.tables[i], run.rows, counts[i]));
    if (dataset.curves !== curves) this.showCurves();
    Object.assign(dataset, { rows, curves });
  }

  showTable(table, rows, count) {
    table.replaceChildren();
    if (!rows.length) return;
    const columns = [...new Set(rows.flatMap(({ row }) => Object.keys(row)))].filter((name) => !["epoch_complete", "batch", "seconds", "samples"].includes(name));
    const head = make(make(table, "thead"), "tr");
    columns.forEach((name) => make(head, "th", {}, name));
    const body = make(table, "tbody");
    const end = Math.min(rows.length, count + LATER), begin = Math.max(0, end - ROWS);
    rows.slice(begin, end).reverse().forEach(({ row }, i, shown) => {
      const number = begin + shown.length - i, line = make(body, "tr", { class: number > count ? "later" : number === count ? "here" : "" });
      columns.forEach((name) => make(line, "td", {}, name in row ? shortNumber(row[name]) : ""));
    });
  }

  showCurves() {
    const groups = new Map();
    // Rows within an epoch are told apart by the step
    const isFine = this.runs.some((run) => run.rows.some(({ row }, i) => i && row.epoch === run.rows[i - 1].row.epoch && "step" in row));
    const axis = isFine ? "step" : "epoch";
    this.runs.forEach((run, i) => {
      const { end } = this.moments[i], until = run.rows[run.rowsAt(end) - 1]?.row[axis] ?? 0;
      for (const name of new Set(run.rows.flatMap(({ row }) => Object.keys(row)))) {
        const points = run.rows.filter(({ row }) => typeof row[name] === "number" && axis in row).map(({ row }) => [row[axis], row[name]]);
        if (!points.length || ["epoch", "batch", "step", "samples", "seconds", "valid_batch"].includes(name)) continue;
        const [, set, word] = /^(train|valid)_(.+)$/.exec(name) ?? [null, "", name], metric = isFine ? `${word} by step` : word;
        if (!groups.has(metric)) groups.set(metric, []);
        groups.get(metric).push({ name: [this.runs.length > 1 ? `${this.data.names[i]}:` : "", set].filter(Boolean).join(" "), points, until, dashed: i > 0 });
      }
      for (const [name, points] of Object.entries(run.values)) {
        const key = `${name} by transition`;
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push({ name: this.runs.length > 1 ? this.data.names[i] : "", points, until: end, dashed: i > 0 });
      }
    });
    const shown = [...groups].slice(0, 8);
    if (this.curves.children.length !== shown.length) {
      this.curves.replaceChildren();
      shown.forEach(() => {
        const figure = make(this.curves, "figure");
        make(figure, "figcaption");
        make(figure, "canvas");
      });
    }
    shown.forEach(([metric, lines], i) => {
      const [caption, canvas] = this.curves.children[i].children;
      caption.replaceChildren();
      make(caption, "b", {}, metric);
      lines.forEach((line, n) => line.name && make(caption, "span", { style: `color: var(--${SERIES[n % SERIES.length]})` }, line.name));
      drawCurves(canvas, lines);
    });
  }

  // ------------------------------------------------------------ what is pointed at

  point(i, kind, thing, event) {
    if (!thing) return;
    const card = this.card;
    card.replaceChildren();
    if (kind === "state") this.describeState(i, thing);
    else this.describeLine(i, thing);
    card.hidden = false;
    const box = this.root.getBoundingClientRect(), at = event.clientX === undefined ? event.target.getBoundingClientRect() : { left: event.clientX, top: event.clientY };
    const { offsetWidth: width, offsetHeight: height } = card;
    card.style.left = `${Math.max(8, Math.min(at.left - box.left + 16, box.width - width - 8))}px`;
    card.style.top = `${Math.max(8, at.top - box.top + 18 + height > box.height ? at.top - box.top - height - 12 : at.top - box.top + 18)}px`;
  }

  leave() {
    if (this.card) this.card.hidden = true;
  }

  fact(label, text) {
    if (text === "" || text === null || text === undefined || (Array.isArray(text) && !text.length)) return;
    const line = make(this.card, "div", { class: "fact" });
    make(line, "span", {}, label);
    make(line, "b", {}, Array.isArray(text) ? text.join(", ") : text);
  }

  describeState(i, name) {
    const state = this.data.tables[i].states.find((one) => one.name === name);
    make(this.card, "h3", {}, name);
    if (!state) {
      this.fact("", "any exception that no arrow takes leads here");
      return;
    }
    if (state.role !== name) this.fact("role", state.role);
    this.fact("does", state.action);
    this.fact("at exit", state.close);
    this.fact("mode", state.mode);
    this.fact("", [state.anchor && "a run can be saved and resumed here", state.final && "the run ends here"].filter(Boolean).join(", "));
    this.fact("listeners", state.listeners);
    this.fact("reads", state.reads);
    this.fact("writes", state.writes);
    const run = this.runs[i], moment = this.moments?.[i];
    this.describeWays(run ? run.arrows : this.data.tables[i].arrows, name, moment?.counts);
    if (!run) return;
    this.fact("entered", times(moment.entered.get(name) ?? 0));
    const inside = new Set([name]);
    this.data.tables[i].states.forEach((one) => inside.has(one.within) && inside.add(one.name));
    const spent = [...moment.states].filter(([one]) => inside.has(one)).reduce((sum, [, seconds]) => sum + seconds, 0);
    this.fact("time", shareOfTime(spent, moment.total));
    if (this.data.control === "steps") this.fact("", this.breakpoints.has(name) ? "click to remove the breakpoint" : "click to set a breakpoint");
  }

  /** Where a state leads, in the order in which its guards are asked, and on which events. */
  describeWays(arrows, name, counts) {
    let label = "leads to";
    arrows.forEach((arrow, number) => {
      if (arrow.source !== name) return;
      const when = [arrow.event && `on ${arrow.event}`, arrow.guard && `[${arrow.guard}]`, arrow.other && "else"].filter(Boolean);
      const words = [...when, `→ ${arrow.dest}`, arrow.effect && `/ ${arrow.effect}`, counts && `× ${counts[number].toLocaleString("en")}`];
      this.fact(label, (arrow.number ? `${arrow.number}. ` : "") + words.filter(Boolean).join(" "));
      label = "";
    });
  }

  describeLine(i, line) {
    const run = this.runs[i], arrows = run ? run.arrows : this.data.tables[i].arrows;
    line.arrows.slice(0, 6).forEach((number) => {
      const arrow = arrows[number];
      make(this.card, "h3", {}, `${arrow.source} → ${arrow.dest}`);
      this.fact("on event", arrow.event);
      this.fact("guard", arrow.guard && `${arrow.number ? `${arrow.number}. ` : ""}[${arrow.guard}]`);
      if (arrow.other) this.fact("guard", "none of the guards before was true");
      this.fact("does", arrow.effect);
      if (!run) return;
      const { counts, spent, total, end } = this.moments[i], asked = run.askedOf(number, counts);
      this.fact("taken", asked === null ? times(counts[number]) : `${counts[number].toLocaleString("en")} of ${asked.toLocaleString("en")} checks`);
      if (!counts[number]) return;
      this.fact("why", run.reasonOf(number, end));
      this.fact("time after", shareOfTime(spent.get(number) ?? 0, total));
    });
    if (line.arrows.length > 6) this.fact("", `and ${line.arrows.length - 6} more`);
  }

  pick(state) {
    if (this.data.control !== "steps" || state === FAILED) return;
    if (!this.breakpoints.delete(state)) this.breakpoints.add(state);
    this.leave();
    this.showMoment();
    this.tell({ do: "break", states: [...this.breakpoints] });
  }

  // ------------------------------------------------------------ news of a run that goes on

  async ask() {
    try {
      const since = this.runs.map((run) => [run.about.id, run.about.generation, run.base + run.length, run.rows.length]);
      const answer = await fetch(`data?${new URLSearchParams({ token: this.data.source, since: JSON.stringify(since) })}`);
      if (!answer.ok) throw new Error(String(answer.status));
      this.hear(await answer.json());
    } catch {
      this.status = "out of reach";
      this.showChips();
    }
    setTimeout(() => this.ask(), document.hidden ? 4 * POLL : POLL);
  }

  hear({ runs, status }) {
    this.status = status;
    const before = this.longest(), rows = this.runs.map((run) => run.rows.length);
    runs.forEach((record, i) => {
      if (record.whole) this.runs[i] = new Run(record.table, record);
      else this.runs[i].take(record);
      if (record.whole) {
        this.data.tables[i] = this.drawings[i].table = record.table;
        this.refold();
      }
    });
    this.showChips();
    if (this.longest() === before && this.runs.every((run, i) => run.rows.length === rows[i])) return;
    if (this.runs.length > 1) this.parting = partingOf(...this.runs);
    this.timeline.setRuns(this.runs);
    if (this.following) this.goTo(this.longest());
    else this.showMoment();
  }

  tell(what) {
    return fetch(`do?${new URLSearchParams({ token: this.data.source })}`, { method: "POST", body: JSON.stringify(what) });
  }

  // ------------------------------------------------------------ looks

  turnTheme() {
    const dark = this.root.dataset.theme ? this.root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    this.root.dataset.theme = dark ? "light" : "dark";
    this.redraw();
  }

  redraw() {
    delete this.root.dataset.rows;
    delete this.root.dataset.curves;
    this.drawings.forEach((drawing) => drawing.touched || drawing.fit());
    if (this.moments?.length) this.showMoment();
  }
}

for (const root of document.querySelectorAll(".live")) {
  root.page = new Page(root, JSON.parse(root.querySelector("script").textContent));
}

// The time line of decisions, and the curves of the history, on canvases.
"use strict";

function colourOf(element, name) {
  return getComputedStyle(element).getPropertyValue(`--${name}`).trim();
}

/** A canvas as sharp as the screen; returns its context and its size. */
function ready(canvas) {
  const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

const SERIES = ["blue", "orange", "green", "violet", "red", "grey"];

/**
 * Curves over one axis.
 * @param lines `[{ name, points: [[x, y], ...], dashed, until }]`; what comes after `until` is faint
 */
function drawCurves(canvas, lines) {
  const { context, width, height } = ready(canvas);
  const points = lines.flatMap((line) => line.points).filter(([, y]) => Number.isFinite(y));
  if (!points.length || !width) return;
  const [left, right, top, bottom] = [46, width - 8, 8, height - 18];
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])].map((numbers) => bounds(numbers));
  const across = (x) => left + ((x - xs[0]) / (xs[1] - xs[0])) * (right - left);
  // What differs by powers of ten is told apart on a scale of them
  const tens = ys[0] > 0 && ys[1] / ys[0] > 100, scale = tens ? Math.log10 : (y) => y, [least, most] = ys.map(scale);
  const up = (y) => bottom - ((scale(y) - least) / (most - least)) * (bottom - top);
  context.font = "10px system-ui, sans-serif";
  context.fillStyle = colourOf(canvas, "soft");
  context.strokeStyle = colourOf(canvas, "grid");
  context.lineWidth = 1;
  context.textAlign = "right";
  for (const y of tens ? powers(least, most, 3) : ticks(...ys, 3)) {
    context.beginPath();
    context.moveTo(left, up(y));
    context.lineTo(right, up(y));
    context.stroke();
    context.fillText(shortNumber(y), left - 6, up(y) + 3);
  }
  context.textAlign = "center";
  for (const x of ticks(...xs, 4).filter(Number.isInteger)) within(context, x.toLocaleString("en"), across(x), height - 4, width);
  lines.forEach((line, number) => {
    context.strokeStyle = context.fillStyle = colourOf(canvas, SERIES[number % SERIES.length]);
    context.setLineDash(line.dashed ? [4, 3] : []);
    context.lineWidth = 1.6;
    for (const late of [true, false]) {
      context.globalAlpha = late ? 0.22 : 1;
      context.beginPath();
      let pen = false;
      for (const [x, y] of line.points) {
        if (!Number.isFinite(y) || (!late && x > line.until)) {
          pen = false;
          continue;
        }
        context[pen ? "lineTo" : "moveTo"](across(x), up(y));
        pen = true;
      }
      context.stroke();
      if (line.points.length > 40) continue;
      for (const [x, y] of line.points) {
        if (!Number.isFinite(y) || (!late && x > line.until)) continue;
        context.beginPath();
        context.arc(across(x), up(y), 2, 0, 7);
        context.fill();
      }
    }
  });
  context.globalAlpha = 1;
  context.setLineDash([]);
}

/** Writes a text in the middle of a place, as far as the edge leaves room. */
function within(context, text, x, y, width) {
  const half = context.measureText(text).width / 2;
  context.fillText(text, Math.min(Math.max(x, half), width - half), y);
}

function bounds(numbers) {
  let low = Infinity, high = -Infinity;
  for (const number of numbers) {
    low = Math.min(low, number);
    high = Math.max(high, number);
  }
  return low === high ? [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)] : [low, high];
}

function ticks(low, high, most) {
  const raw = (high - low) / most, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((one) => one >= raw * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-12; n += 1) found.push(Number((n * step).toPrecision(12)));
  return found;
}

/** Powers of ten between two exponents. */
function powers(least, most, count) {
  const found = [], step = Math.max(1, Math.round((most - least) / count));
  for (let n = Math.ceil(least); n <= most; n += step) found.push(10 ** n);
  return found;
}

function shortNumber(value) {
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

function shortTime(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.1) return `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function times(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "time" : "times"}`;
}

function shareOfTime(seconds, total) {
  return total ? `${shortTime(seconds)}, ${((100 * seconds) / total).toFixed(1)} %` : "";
}

/** The decisions of a run, one line each, which is dragged to go back and forth. */
class Timeline {
  static LANE = 15;
  static LEFT = 220;

  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.range = [0, 1];
    this.whole = true;
    this.runs = [];
    this.known = new Map(); // what was counted for the range in sight
    let dragging = false;
    const at = (event) => {
      const { left, width } = canvas.getBoundingClientRect();
      const part = (event.clientX - left - Timeline.LEFT) / (width - Timeline.LEFT - 12);
      return Math.round(this.range[0] + Math.min(1, Math.max(0, part)) * (this.range[1] - this.range[0]));
    };
    canvas.addEventListener("pointerdown", (event) => {
      dragging = true;
      canvas.setPointerCapture(event.pointerId);
      on.scrub(at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (dragging) on.scrub(at(event));
    });
    canvas.addEventListener("pointerup", () => (dragging = false));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.shift(event.deltaX);
      else this.zoom(Math.exp(event.deltaY * 0.002), at(event));
    }, { passive: false });
  }

  /** The arrows that are worth a line: guarded ones that were taken, the rare ones first. */
  setRuns(runs) {
    this.runs = runs;
    const [run] = runs, counts = run.countsAt(run.length);
    this.lanes = run.arrows
      .map((arrow, number) => ({ number, count: counts[number], arrow }))
      .filter(({ arrow, count }) => count && (arrow.guard || arrow.event || arrow.dest === FAILED))
      .sort((a, b) => a.count - b.count)
      .slice(0, 9);
    if (this.whole) this.range = [0, Math.max(1, ...runs.map((one) => one.length))];
    this.canvas.style.height = `${26 + Timeline.LANE * this.lanes.length}px`;
    this.known = new Map();
  }

  zoom(factor, around) {
    const end = Math.max(1, ...this.runs.map((run) => run.length)), [low, high] = this.range;
    const width = Math.min(end, Math.max(24, (high - low) * factor));
    const part = (around - low) / (high - low);
    this.setRange(around - part * width, width, end);
  }

  shift(pixels) {
    const end = Math.max(1, ...this.runs.map((run) => run.length)), width = this.range[1] - this.range[0];
    this.setRange(this.range[0] + (pixels / 600) * width, width, end);
  }

  setRange(low, width, end) {
    const begin = Math.min(Math.max(0, Math.round(low)), Math.max(0, end - Math.round(width)));
    this.range = [begin, Math.min(end, begin + Math.round(width))];
    this.whole = this.range[0] === 0 && this.range[1] === end;
    this.known = new Map();
    this.on.moved();
  }

  /** Keeps a position in sight. */
  follow(position) {
    const [low, high] = this.range;
    if (position >= low && position <= high) return;
    const end = Math.max(1, ...this.runs.map((run) => run.length));
    this.setRange(position - (high - low) / 2, high - low, end);
  }

  draw(position, parting) {
    const { context, width, height } = ready(this.canvas), left = Timeline.LEFT, right = width - 12;
    if (!this.runs.length || right <= left) return;
    const [run] = this.runs, [low, high] = this.range;
    const across = (place) => left + ((place - low) / (high - low)) * (right - left);
    const colour = Object.fromEntries(["ink", "soft", "grid", "blue", "recent", "bad", "event", "orange"].map((n) => [n, colourOf(this.canvas, n)]));
    context.font = "11px system-ui, sans-serif";
    this.lanes.forEach(({ number, arrow }, lane) => {
      const y = 8 + Timeline.LANE * lane;
      context.fillStyle = colour.soft;
      context.textAlign = "right";
      context.fillText(clipped(context, `${arrow.source}: ${arrow.guard || arrow.event || "failure"}`, left - 16), left - 10, y + 4);
      context.fillStyle = colour.grid;
      context.fillRect(left, y, right - left, 1);
      context.fillStyle = arrow.kind === "failure" ? colour.bad : arrow.kind === "event" ? colour.event : colour.blue;
      const high = this.runs.length > 1 ? 5 : 11; // two runs share a line, the first one above
      this.marks(context, run, number, left, right, y - 5, high);
      const other = this.runs[1]?.arrows.findIndex((one) => ["source", "dest", "guard", "event"].every((key) => one[key] === arrow[key]));
      if (!(other >= 0)) return;
      context.fillStyle = colour.orange;
      this.marks(context, this.runs[1], other, left, right, y + 1, high);
    });
    context.globalAlpha = 1;
    context.fillStyle = colour.soft;
    context.textAlign = "center";
    for (const place of ticks(low, high, 8).filter(Number.isInteger)) {
      within(context, (place + run.base).toLocaleString("en"), across(place), height - 4, width);
    }
    if (parting !== null && parting >= low && parting <= high) {
      context.fillStyle = colour.bad;
      context.fillRect(across(parting) - 0.75, 0, 1.5, height - 16);
    }
    if (position >= low && position <= high) {
      context.fillStyle = colour.recent;
      context.fillRect(across(position) - 1, 0, 2, height - 16);
      context.beginPath();
      context.arc(across(position), 3.5, 4, 0, 7);
      context.fill();
    }
  }

  /** A bar for each few pixels, the stronger the more often the arrow was taken there. */
  marks(context, run, number, left, right, y, high) {
    const key = `${this.runs.indexOf(run)} ${number}`;
    if (!this.known.has(key)) this.known.set(key, this.countsOf(run, number));
    const counts = this.known.get(key), most = Math.max(1, ...counts), step = (right - left) / counts.length;
    counts.forEach((count, i) => {
      if (!count) return;
      context.globalAlpha = 0.2 + (0.75 * count) / most;
      context.fillRect(left + step * i, y, Math.min(Math.max(1.5, step - 1), 5), high);
    });
    context.globalAlpha = 1;
  }

  countsOf(run, number) {
    const [low, high] = this.range, parts = Math.min(300, high - low);
    const place = (i) => Math.min(run.length, Math.floor(low + ((high - low) * i) / parts));
    return Array.from({ length: parts }, (_, i) => run.countBetween(number, place(i), place(i + 1)));
  }
}

function clipped(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let end = text.length;
  while (end && context.measureText(`${text.slice(0, end)}…`).width > width) end -= 1;
  return `${text.slice(0, end)}…`;
}

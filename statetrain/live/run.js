// A run: the arrows that it took, and what is known at each of them.
"use strict";

const BLOCK = 4096; // transitions from one sum of counts to the next

class Run {
  constructor(table, record) {
    this.table = table;
    this.base = record.base; // transitions before the first that is known
    this.earlier = record.earlier; // how often each arrow was taken in them
    this.arrows = [...table.arrows];
    this.length = 0;
    this.path = new Uint16Array(1 << 12);
    this.sums = []; // of each block: how often each arrow was taken before it
    this.clock = [];
    this.spending = []; // seconds by arrow, as they were along the run
    this.counters = [];
    this.values = {};
    this.rows = [];
    this.take(record);
  }

  /** Adds what is new since the last record. */
  take(record) {
    for (const arrow of record.extra.slice(this.arrows.length - this.table.arrows.length)) this.arrows.push(arrow);
    const bytes = Uint8Array.from(atob(record.path), (letter) => letter.charCodeAt(0));
    const path = new Uint16Array(bytes.buffer);
    this.reserve(this.length + path.length);
    this.path.set(path, this.length);
    this.length += path.length;
    this.addUp();
    const add = (known, points) => points.forEach(([place, ...rest]) => addEvenly(known, [place - this.base, ...rest]));
    add(this.clock, record.clock);
    add(this.counters, record.counters);
    add(this.spending, record.sums);
    for (const [name, points] of Object.entries(record.values)) add((this.values[name] ??= []), points);
    this.rows.push(...record.rows);
    this.about = record;
  }

  reserve(length) {
    if (length <= this.path.length) return;
    const path = new Uint16Array(Math.max(length, 2 * this.path.length));
    path.set(this.path.subarray(0, this.length));
    this.path = path;
  }

  addUp() {
    if (!this.sums.length) {
      this.sums.push(new Float64Array(Math.max(256, this.arrows.length + 64)));
    }
    while (this.sums.length * BLOCK <= this.length) {
      const counts = this.sums.at(-1).slice(), begin = (this.sums.length - 1) * BLOCK;
      for (let i = begin; i < begin + BLOCK; i += 1) counts[this.path[i]] += 1;
      this.sums.push(counts);
    }
  }

  /** How often each arrow was taken in the first `end` transitions that are known, and before them. */
  countsAt(end) {
    const block = Math.min(Math.floor(end / BLOCK), this.sums.length - 1), counts = this.sums[block].slice();
    for (let i = block * BLOCK; i < end; i += 1) counts[this.path[i]] += 1;
    for (const [arrow, times] of this.earlier) counts[arrow] += times;
    return counts;
  }

  /** How often one arrow was taken in a range. */
  countBetween(arrow, begin, end) {
    const before = Math.floor(begin / BLOCK), last = Math.floor(end / BLOCK);
    let count = this.sums[last][arrow] - this.sums[before][arrow];
    for (let i = before * BLOCK; i < begin; i += 1) count -= this.path[i] === arrow;
    for (let i = last * BLOCK; i < end; i += 1) count += this.path[i] === arrow;
    return count;
  }

  /** The state that the run is in after `end` transitions. */
  stateAt(end) {
    return end > 0 ? this.arrows[this.path[end - 1]].dest : null;
  }

  /** How often each state was entered, with the scopes that were opened on the way. */
  enteredAt(counts) {
    const entered = new Map();
    this.arrows.forEach((arrow, number) => {
      if (!counts[number]) return;
      for (const name of arrow.enters ?? [arrow.dest]) entered.set(name, (entered.get(name) ?? 0) + counts[number]);
    });
    return entered;
  }

  /** How often the guard of an arrow was evaluated; null where there is none, or it belongs to an event. */
  askedOf(number, counts) {
    const arrow = this.arrows[number];
    if (!arrow.guard || arrow.event) return null;
    let asked = 0, seen = false;
    this.arrows.forEach((other, i) => {
      if (other.source !== arrow.source || other.event) return;
      seen ||= i === number;
      if (seen) asked += counts[i];
    });
    return asked;
  }

  /** Seconds since the run began, between the moments that are known. */
  secondsAt(end) {
    const i = lastBefore(this.clock, end), here = this.clock[i], next = this.clock[i + 1];
    if (!here) return null;
    if (!next || next[0] === here[0]) return here[1];
    return here[1] + ((next[1] - here[1]) * (end - here[0])) / (next[0] - here[0]);
  }

  /** The seconds from each arrow until the next one, up to a moment: by the number of the arrow. */
  spentAt(end) {
    if (end >= this.length) return new Map(this.about.spent);
    const known = this.spending[lastBefore(this.spending, end)] ?? [1, []], spent = new Map(known[1]);
    const last = Math.min(end, this.clock.at(-1)?.[0] ?? 0); // nothing is known of the time after it
    for (let i = Math.max(1, known[0]); i < last; i += 1) {
      const arrow = this.path[i - 1], passed = this.secondsAt(i + 1) - this.secondsAt(i);
      spent.set(arrow, (spent.get(arrow) ?? 0) + passed);
    }
    return spent;
  }

  /** The same by the state that the arrows lead to. */
  spentByState(spent) {
    const states = new Map();
    for (const [arrow, seconds] of spent) {
      const { dest } = this.arrows[arrow];
      states.set(dest, (states.get(dest) ?? 0) + seconds);
    }
    return states;
  }

  /** Why an arrow was taken, as far as is known: what its guard said, how the run ended, or what the table says. */
  reasonOf(number, end) {
    const { reasons, outcome } = this.about, arrow = this.arrows[number];
    if (reasons[number]) return reasons[number];
    if (outcome?.why && end >= this.length && this.path[this.length - 1] === number) return outcome.why;
    if (arrow.event) return `${arrow.event} was raised in ${arrow.source}`;
    const row = this.arrows.filter((other) => other.source === arrow.source && !other.event && other.guard);
    const before = row.slice(0, arrow.guard ? row.indexOf(arrow) : row.length).map((other) => `[${other.guard}]`);
    const words = [];
    if (arrow.guard) words.push(`[${arrow.guard}] was true`);
    if (before.length) words.push(`${before.join(", ")} ${before.length > 1 ? "were" : "was"} not`);
    return words.join("; ");
  }

  countersAt(end) {
    return this.counters[lastBefore(this.counters, end)] ?? null;
  }

  /** How many rows of the history there were. */
  rowsAt(end) {
    let count = 0;
    while (count < this.rows.length && this.rows[count].at <= end + this.base) count += 1;
    return count;
  }
}

/** The place of the last point at or before a position in a list that is sorted by it. */
function lastBefore(points, position) {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= position) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Adds a point to a list that is thinned evenly while it grows. */
function addEvenly(points, point, most = 8000) {
  points.stride ??= 1;
  points.seen = (points.seen ?? -1) + 1;
  if (points.seen % points.stride === 0) points.push(point);
  if (points.length <= most) return;
  for (let i = 0; 2 * i < points.length; i += 1) points[i] = points[2 * i];
  points.length = Math.ceil(points.length / 2);
  points.stride *= 2;
}

/** Where two runs take different arrows first; null if neither does before one of them ends. */
function partingOf(one, other) {
  const words = (run) => run.arrows.map((a) => [a.source, a.dest, a.guard, a.effect, a.event].join("\n"));
  const numbers = new Map(words(one).map((text, i) => [text, i]));
  const same = words(other).map((text) => numbers.get(text) ?? -1);
  const shift = other.base - one.base, begin = Math.max(0, shift);
  const end = Math.min(one.length, other.length + shift);
  for (let i = begin; i < end; i += 1) if (one.path[i] !== same[other.path[i - shift]]) return i;
  return one.length === other.length + shift ? null : Math.max(0, end);
}

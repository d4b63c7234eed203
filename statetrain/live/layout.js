// Where everything goes. The same rules as in `statetrain.diagram`: states below each other in reading order, so that the
// main way runs straight down; two scopes that follow each other side by side; every other arrow leaves sideways, runs along
// a lane, and enters from the side. Lengths are in pixels.
"use strict";

const ROOT = "", START = "[*]", FAILED = "failed";
const SIZE = { box: 28, count: 12, head: 28, pad: 14, gap: 20, first: 16, lane: 9, port: 9, dot: 8 };

const startOf = (scope) => `${scope}.start`;
const eventsOf = (scope) => `${scope}.events`;
const isDot = (node) => node.endsWith(".start") || node.endsWith(".events");

/** What is shown of a table when some scopes are folded: its states, and the lines between them. */
function shownOf(table, folded) {
  const states = new Map(table.states.map((state) => [state.name, state]));
  const scopes = new Set(table.states.map((state) => state.within).filter(Boolean));
  const homes = new Map();
  for (const state of table.states) {
    const above = state.within && homes.get(state.within);
    homes.set(state.name, above && (above !== state.within || folded.has(above)) ? above : state.name);
  }
  const isFolded = (name) => scopes.has(name) && folded.has(name);
  const homeOf = (node) => {
    if (!isDot(node)) return homes.get(node) ?? node;
    const scope = node.slice(0, node.lastIndexOf("."));
    return homes.get(scope) === scope && !isFolded(scope) ? node : homes.get(scope);
  };
  const children = new Map();
  for (const state of table.states) {
    if (homes.get(state.name) !== state.name) continue;
    const within = state.within ?? ROOT;
    if (!children.has(within)) children.set(within, []);
    children.get(within).push(state.name);
  }
  const lines = new Map();
  table.arrows.forEach((arrow, number) => {
    const tail = homeOf(arrow.tail), head = homeOf(arrow.head);
    if (tail === head && isFolded(tail)) return;
    const key = `${tail}|${head}|${arrow.kind}`;
    if (!lines.has(key)) lines.set(key, { key, tail, head, kind: arrow.kind, arrows: [] });
    lines.get(key).arrows.push(number);
  });
  const open = new Set([...scopes].filter((name) => homes.get(name) === name && !folded.has(name)));
  return { states, children, homes, open, scopes, lines: [...lines.values()] };
}

/** The places of boxes, dots and lines. `measure` gives the width of a name. */
function layOut(shown, measure, withCounts) {
  const boxes = new Map(), around = new Map();

  function addBox(name, path, wide) {
    const box = {
      name, within: path.length > 1 ? path[path.length - 2] : null, rows: [], row: 0, column: 0,
      x: 0, left: 0, right: 0, top: 0, bottom: 0, ports: { left: [], right: [] }, lanes: new Map(),
    };
    boxes.set(name, box);
    around.set(name, path);
    for (const dot of [startOf(name), eventsOf(name)]) around.set(dot, [...path, dot]);
    for (const row of rowsOf(name, wide)) {
      const cells = row.map((cell) => addBox(cell, [...path, cell], wide && row.length === 1));
      cells.forEach((cell, column) => Object.assign(cell, { row: box.rows.length, column }));
      box.rows.push(cells);
    }
    return box;
  }

  function rowsOf(name, wide) {
    let cells = shown.children.get(name) ?? [];
    if (name !== ROOT && !shown.open.has(name)) cells = [];
    if (name === ROOT) cells = [START, ...cells, FAILED];
    const rows = [];
    for (let i = 0; i < cells.length; ) {
      let end = i;
      while (end < cells.length && shown.open.has(cells[end])) end += 1;
      if (wide && end - i === 2) {
        rows.push(cells.slice(i, end));
      } else {
        end = Math.max(end, i + 1);
        rows.push(...cells.slice(i, end).map((cell) => [cell]));
      }
      i = end;
    }
    return rows;
  }

  // ------------------------------------------------------------ ways

  function wayOf(line) {
    const tail = around.get(line.tail), head = around.get(line.head);
    let shared = 1;
    while (shared < Math.min(tail.length, head.length) - 1 && tail[shared] === head[shared]) shared += 1;
    const here = boxes.get(tail[shared]) ?? { row: -1, column: 0 };
    const there = boxes.get(head[shared]) ?? { row: Infinity, column: 0 };
    const way = { line, scope: tail[shared - 1], straight: false };
    if (here.column !== there.column) {
      const onward = here.column < there.column;
      return Object.assign(way, {
        gutter: Math.max(here.column, there.column), out: onward ? "right" : "left", into: onward ? "left" : "right",
      });
    }
    const usual = there.row > here.row && line.head !== FAILED ? "right" : "left";
    const side = openSide(tail.slice(shared)) ?? openSide(head.slice(shared)) ?? usual;
    return Object.assign(way, { gutter: here.column + (side === "right" ? 1 : 0), out: side, into: side });
  }

  function openSide(path) {
    for (let i = 0; i + 1 < path.length; i += 1) {
      const box = boxes.get(path[i + 1]);
      if (box && boxes.get(path[i]).rows[box.row].length > 1) return box.column === 0 ? "left" : "right";
    }
    return null;
  }

  function straighten(ways) {
    const reached = new Set();
    const mainFirst = (way) => (way.line.kind === "hot" || way.line.kind === "main" ? 0 : 1);
    for (const way of [...ways].sort((a, b) => mainFirst(a) - mainFirst(b))) {
      const { tail, head, kind } = way.line, to = boxes.get(head), from = boxes.get(tail);
      let row = null;
      if (tail === startOf(way.scope)) row = -1;
      else if (from && !shown.open.has(tail) && from.within === way.scope) row = from.row;
      if (kind === "event" || reached.has(head) || row === null || !to || to.within !== way.scope) continue;
      if (to.row === row + 1 && to.column === 0) {
        way.straight = true;
        reached.add(head);
      }
    }
  }

  const owner = (node) => boxes.get(node) ?? boxes.get(around.get(node).at(-2));
  const laneOf = (way) => `${way.gutter}|${way.line.head}|${way.line.kind}`;

  function openPorts(ways) {
    const arrivals = new Map();
    for (const way of ways.filter((one) => !one.straight)) {
      const { tail, head, kind } = way.line;
      way.start = { node: tail, leaves: true, y: 0 };
      owner(tail).ports[way.out].push(way.start);
      const key = `${head}|${way.into}|${kind === "event"}`;
      if (!arrivals.has(key)) {
        arrivals.set(key, { node: head, leaves: false, y: 0 });
        owner(head).ports[way.into].push(arrivals.get(key));
      }
      way.end = arrivals.get(key);
    }
    for (const box of boxes.values()) {
      box.ports.right.sort((a, b) => a.leaves - b.leaves);
      box.ports.left.sort((a, b) => b.leaves - a.leaves);
    }
  }

  // ------------------------------------------------------------ heights and widths

  function stack(ports, y) {
    for (const port of ports) {
      port.y = y + SIZE.port / 2;
      y += SIZE.port;
    }
    return y;
  }

  function placeDown(box, top) {
    box.top = top;
    if (!box.rows.length) {
      const counted = withCounts && box.name !== START && box.name !== FAILED ? SIZE.count : 0;
      const needed = Math.max(box.ports.left.length, box.ports.right.length) * SIZE.port + 6;
      box.bottom = top + (box.name === START ? SIZE.dot : Math.max(SIZE.box + counted, needed));
      for (const side of ["left", "right"]) {
        stack(box.ports[side], (box.top + box.bottom - box.ports[side].length * SIZE.port) / 2);
      }
      return;
    }
    let y = top, bottom = top;
    if (box.name !== ROOT) {
      const border = box.ports.left.filter((port) => !port.leaves && port.node === box.name);
      border.forEach((port, i) => (port.y = top + SIZE.head / 2 + 8 * i));
      const others = box.ports.left.filter((port) => !border.includes(port));
      y = Math.max(stack(box.ports.right, top + SIZE.head / 2 - SIZE.port / 2), stack(others, top + SIZE.head)) + 8;
    }
    for (const row of box.rows) {
      if (row[0].row) y += SIZE.gap;
      for (const cell of row) {
        placeDown(cell, y);
        bottom = Math.max(bottom, cell.bottom);
      }
      y = bottom;
    }
    box.bottom = bottom + (box.name === ROOT ? 0 : SIZE.pad);
  }

  function placeAcross(box, ways) {
    if (!box.rows.length) {
      const handle = shown.scopes.has(box.name) ? 8 : 0; // the sign that it can be unfolded
      box.left = box.right = box.name === START ? SIZE.dot / 2 : Math.max(30, measure(box.name) / 2 + 16 + handle);
      return;
    }
    for (const row of box.rows) row.forEach((cell) => placeAcross(cell, ways));
    const own = ways.filter((way) => !way.straight && way.scope === box.name);
    let edge = 0;
    const columns = Math.max(...box.rows.map((row) => row.length));
    for (let column = 0; column < columns; column += 1) {
      const cells = box.rows.filter((row) => row.length > column).map((row) => row[column]);
      const left = Math.max(...cells.map((cell) => cell.left), 24);
      const right = Math.max(...cells.map((cell) => cell.right), 24);
      let middle = 0;
      if (column) middle = edge + left;
      else box.left = left + placeLanes(box, own, 0, -left, -1);
      cells.forEach((cell) => (cell.x = middle));
      edge = middle + right + placeLanes(box, own, column + 1, middle + right, 1);
    }
    box.right = edge;
    if (box.name !== ROOT) box.left = Math.max(box.left, measure(box.name) + 46);
  }

  function placeLanes(box, ways, gutter, edge, sign) {
    const spans = new Map();
    for (const way of ways.filter((one) => one.gutter === gutter)) {
      const known = spans.get(laneOf(way)) ?? [Infinity, -Infinity];
      spans.set(laneOf(way), [Math.min(known[0], way.start.y, way.end.y), Math.max(known[1], way.start.y, way.end.y)]);
    }
    const taken = [];
    for (const [lane, [low, high]] of [...spans].sort((a, b) => a[1][1] - a[1][0] - (b[1][1] - b[1][0]))) {
      let i = taken.findIndex((lanes) => lanes.every(([a, b]) => high + 5 < a || b < low - 5));
      if (i < 0) i = taken.push([]) - 1;
      taken[i].push([low, high]);
      box.lanes.set(lane, edge + sign * (SIZE.first + SIZE.lane * i));
    }
    return (taken.length ? SIZE.first + SIZE.lane * (taken.length - 1) : 0) + SIZE.pad;
  }

  function settle(box, x) {
    box.x += x;
    for (const row of box.rows) row.forEach((cell) => settle(cell, box.x));
  }

  // ------------------------------------------------------------ lines

  function dotAt(dot) {
    const box = owner(dot);
    if (dot === startOf(box.name)) return [box.x, box.top + SIZE.head / 2];
    for (const side of ["right", "left"]) {
      const port = box.ports[side].find((one) => one.node === dot);
      if (port) return [box.x + (side === "right" ? 24 : -24), port.y];
    }
    return [box.x, box.top + SIZE.head / 2];
  }

  function meet(node, side, y) {
    const sign = side === "right" ? 1 : -1, box = boxes.get(node);
    if (box) return [[side === "right" ? box.x + box.right : box.x - box.left, y]];
    const [x, middle] = dotAt(node), at = [x + (sign * SIZE.dot) / 2, middle];
    return middle === y ? [at] : [at, [x + 2 * sign * SIZE.dot, middle], [x + 2 * sign * SIZE.dot, y]];
  }

  function pointsOf(way) {
    const { tail, head } = way.line;
    if (way.straight) {
      const from = boxes.get(tail), to = boxes.get(head), [x, y] = from ? [from.x, from.bottom] : dotAt(tail);
      return [[x, from ? y : y + SIZE.dot / 2], [x, to.top]];
    }
    const box = boxes.get(way.scope), lane = box.x + box.lanes.get(laneOf(way));
    return [...meet(tail, way.out, way.start.y), [lane, way.start.y], [lane, way.end.y], ...meet(head, way.into, way.end.y).reverse()];
  }

  const root = addBox(ROOT, [ROOT], true);
  const ways = shown.lines.map(wayOf);
  straighten(ways);
  openPorts(ways);
  placeDown(root, 0);
  placeAcross(root, ways);
  settle(root, root.left);
  const dots = new Map();
  for (const { tail, head } of shown.lines) {
    for (const node of [tail, head]) if (isDot(node)) dots.set(node, dotAt(node));
  }
  const lines = ways.map((way) => ({ ...way.line, points: pointsOf(way) }));
  boxes.delete(ROOT);
  return { boxes, dots, lines, width: root.left + root.right, height: root.bottom };
}

/** A line with round bends as the text of an SVG path. */
function rounded(points, radius = 7) {
  let text = `M${points[0]}`;
  for (let i = 1; i < points.length - 1; i += 1) {
    const [before, at, after] = [points[i - 1], points[i], points[i + 1]];
    const begin = toward(at, before, radius), end = toward(at, after, radius);
    text += `L${begin}Q${at} ${end}`;
  }
  return `${text}L${points.at(-1)}`;
}

function toward([x, y], [goalX, goalY], far) {
  const length = Math.abs(goalX - x) + Math.abs(goalY - y);
  const part = length ? Math.min(far / length, 0.5) : 0;
  return [x + (goalX - x) * part, y + (goalY - y) * part];
}

"use strict";
// Sorts the tables and draws the charts of the page. All data is in the page; text is only ever
// set as text. What is chosen is kept in the address: #sort=test/accuracy&show=1,3
(() => {
  const DASHES = ["", "7 3", "7 3 1.5 3", "1.5 3", "10 3 1.5 3 1.5 3"];
  const SHAPES = [
    (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
    (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
    (r) => `M0 ${-1.2 * r}L${1.15 * r} ${0.9 * r}H${-1.15 * r}z`,
    (r) => `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0z`,
    (r) => `M0 ${1.2 * r}L${1.15 * r} ${-0.9 * r}H${-1.15 * r}z`,
    (r) => `M${-0.5 * r} ${-1.3 * r}h${r}v${0.8 * r}h${0.8 * r}v${r}h${-0.8 * r}v${0.8 * r}` +
      `h${-r}v${-0.8 * r}h${-0.8 * r}v${-r}h${0.8 * r}z`,
  ];
  const NUM_COLORS = 7;
  const BOX = { left: 62, right: 606, top: 14, bottom: 330 };

  const page = JSON.parse(document.getElementById("data").textContent);
  const numbers = page.tables.flatMap((table) => table.rows.map((row) => row.number));
  const start = { sort: "row", order: "ascending", metric: page.metrics[0], cost: page.costs[0],
    over: "epoch" };
  const state = { ...start, shown: new Set(page.shown) };

  // The address.

  function readAddress() {
    const text = location.hash.slice(1);
    const target = /^(row|network)-\d+$/.test(text) && document.getElementById(text);
    if (target) {
      target.open = true;
      target.scrollIntoView();
      return;
    }
    if (text && !text.includes("=")) return;  // a part of the page
    const query = new URLSearchParams(text);
    for (const key of Object.keys(start)) state[key] = query.get(key) ?? start[key];
    if (!page.metrics.includes(state.metric)) state.metric = start.metric;
    if (!page.costs.includes(state.cost)) state.cost = start.cost;
    if (!(state.over in page.overLabels)) state.over = start.over;
    if (state.order !== "descending") state.order = "ascending";
    const shown = query.has("show") ? query.get("show").split(",").map(Number) : page.shown;
    state.shown = new Set(shown.filter((number) => numbers.includes(number)));
  }

  function writeAddress() {
    const parts = Object.keys(start)
      .filter((key) => state[key] !== start[key])
      .map((key) => `${key}=${encodeURIComponent(state[key]).replaceAll("%2F", "/")}`);
    const shown = numbers.filter((number) => state.shown.has(number));
    if (shown.join() !== page.shown.join()) parts.push(`show=${shown.join() || "none"}`);
    history.replaceState(null, "", `#${parts.join("&")}`);
  }

  function change(values) {
    Object.assign(state, values);
    writeAddress();
    update();
  }

  // The tables.

  function precedes(a, b) {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const [x, y] = [Number(a), Number(b)];
    const sign = state.order === "descending" ? -1 : 1;
    if (Number.isNaN(x) || Number.isNaN(y)) {
      return sign * (Number.isNaN(x) - Number.isNaN(y) || (a > b) - (a < b));
    }
    return sign * (x - y);
  }

  function sortTables() {
    for (const table of document.querySelectorAll("table.results")) {
      const heads = [...table.tHead.rows[0].cells];
      const place = heads.findIndex((head) => head.dataset.column === state.sort);
      heads.forEach((head, at) =>
        head.setAttribute("aria-sort", at === place ? state.order : "none"));
      if (place < 0) continue;
      const value = (row) => row.cells[place].dataset.value;
      const number = (row) => Number(row.dataset.row);
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => precedes(value(a), value(b)) || number(a) - number(b));
      table.tBodies[0].append(...rows);
    }
  }

  // The charts.

  function add(parent, name, attributes, text) {
    const element = document.createElementNS(parent.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  const colorOf = (row) => `c${(row.number - 1) % NUM_COLORS}`;

  function line(parent, row, path) {
    const dash = DASHES[(row.number - 1) % DASHES.length];
    add(parent, "path", { d: path, class: "line", "stroke-dasharray": dash || "none" });
  }

  function marker(parent, row, x, y, size = 4) {
    const shape = SHAPES[(row.number - 1) % SHAPES.length](size);
    const kind = row.comparable ? "mark" : "mark open";
    add(parent, "path", { d: shape, class: kind, transform: `translate(${x} ${y})` });
  }

  function short(value) {
    const size = Math.abs(value);
    for (const [unit, factor] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (size >= factor) return `${Number((value / factor).toPrecision(3))} ${unit}`;
    }
    return String(Number(value.toPrecision(3)));
  }

  function ticksOf(axis) {
    const ticks = [];
    if (axis.log) {
      for (let power = Math.floor(Math.log10(axis.low)); power <= Math.log10(axis.high); power++) {
        const ratio = axis.high / axis.low;
        for (const digit of ratio > 1e3 ? [1] : ratio > 30 ? [1, 3] : [1, 2, 5]) {
          ticks.push(digit * 10 ** power);
        }
      }
    } else {
      const rough = (axis.high - axis.low) / 6;
      const power = 10 ** Math.floor(Math.log10(rough));
      let step = power * ([1, 2, 5].find((digit) => digit * power >= rough) ?? 10);
      if (axis.whole) step = Math.max(1, Math.round(step));
      for (let at = Math.ceil(axis.low / step); at * step <= axis.high * (1 + 1e-9); at++) {
        ticks.push(at * step);
      }
    }
    return ticks.filter((tick) => tick >= axis.low * (1 - 1e-9) && tick <= axis.high * (1 + 1e-9));
  }

  function scale(axis, from, to) {
    const at = axis.log ? Math.log10 : (value) => value;
    const [low, high] = [at(axis.low), at(axis.high)];
    return (value) => Number((from + ((at(value) - low) / (high - low)) * (to - from)).toFixed(1));
  }

  // Draws the axes of a chart; returns the functions from values to places.
  function frame(svg, x, y) {
    svg.replaceChildren();
    const places = [scale(x, BOX.left, BOX.right), scale(y, BOX.bottom, BOX.top)];
    for (const tick of ticksOf(y)) {
      const at = places[1](tick);
      add(svg, "path", { d: `M${BOX.left} ${at}H${BOX.right}`, class: "grid" });
      add(svg, "text", { x: BOX.left - 7, y: at + 4, "text-anchor": "end" }, short(tick));
    }
    for (const tick of ticksOf(x)) {
      const at = places[0](tick);
      add(svg, "path", { d: `M${at} ${BOX.bottom}v5`, class: "axis" });
      add(svg, "text", { x: at, y: BOX.bottom + 19, "text-anchor": "middle" }, short(tick));
    }
    const corner = `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}`;
    add(svg, "path", { d: corner, class: "axis" });
    const [middle, below] = [(BOX.left + BOX.right) / 2, BOX.bottom + 40];
    add(svg, "text", { x: middle, y: below, "text-anchor": "middle" }, x.label);
    const turned = { "text-anchor": "middle", transform: `rotate(-90) translate(-172 14)` };
    add(svg, "text", turned, y.label);
    return places;
  }

  function range(values, label, options = {}) {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (options.log) {
      [low, high] = [low / 1.25, high * 1.25];
    } else {
      const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
      [low, high] = [low - room, high + room];
    }
    return { low, high: Math.min(high, options.most ?? Infinity), label, ...options };
  }

  // Moves numbers apart that would be drawn over one another.
  function addNumbers(labels, width = 16) {
    for (let pass = 0; pass < 80; pass++) {
      for (const label of labels) label.y = Math.min(Math.max(label.y, BOX.top), BOX.bottom);
      labels.sort((a, b) => a.y - b.y);
      for (const [place, low] of labels.entries()) {
        const high = labels.slice(0, place).findLast((label) => Math.abs(label.x - low.x) < width);
        const missing = high ? 11 - (low.y - high.y) : 0;
        if (missing > 0.1) {
          high.y -= missing / 2;
          low.y += missing / 2;
        }
      }
    }
    for (const { group, number, name, x, y, anchor } of labels) {
      const place = { x, y: y.toFixed(1), class: "number", "text-anchor": anchor ?? "start" };
      add(group, "text", place, name ?? number);
    }
  }

  function empty(svg, text) {
    svg.replaceChildren();
    const place = { x: 330, y: 180, "text-anchor": "middle" };
    add(svg, "text", place, text);
  }

  function drawCurves(svg, table) {
    // A point stands at its epoch, or at what training had cost by that epoch's end.
    const placed = (row) => (row.curves[state.metric] ?? [])
      .map(([epoch, mean, std]) => [state.over === "epoch" ? epoch : row.work[state.over]?.[epoch],
        mean, std])
      .filter(([at]) => at !== undefined);
    const curves = new Map(table.rows.map((row) => [row, placed(row)]));
    const rows = table.rows.filter(
      (row) => state.shown.has(row.number) && curves.get(row).length);
    const label = page.overLabels[state.over];
    const by = state.over === "epoch" ? "" : ` by ${label}`;
    if (!rows.length) return empty(svg, `no row shown has ${state.metric}${by}`);
    const points = rows.flatMap((row) => curves.get(row));
    const ends = points.flatMap(([, mean, std]) => [mean - (std ?? 0), mean + (std ?? 0)]);
    const isAccuracy = state.metric.endsWith("accuracy");
    const epochs = range(points.map(([at]) => at), label, { whole: state.over === "epoch" });
    const values = range(ends, state.metric, { most: isAccuracy ? 1.002 : Infinity });
    const [x, y] = frame(svg, epochs, values);
    const inside = (value) => y(Math.min(Math.max(value, values.low), values.high));
    const labels = [];
    for (const row of rows) {
      const curve = curves.get(row);
      const group = add(svg, "g", { class: `series ${colorOf(row)}`, "data-row": row.number });
      add(group, "title", {}, row.name);
      if (curve.some(([, , std]) => std)) {
        const high = curve.map(([at, mean, std]) => `${x(at)} ${inside(mean + (std ?? 0))}`);
        const low = curve.map(([at, mean, std]) => `${x(at)} ${inside(mean - (std ?? 0))}`);
        add(group, "path", { d: `M${high.join("L")}L${low.reverse().join("L")}z`, class: "band" });
      }
      line(group, row, `M${curve.map(([at, mean]) => `${x(at)} ${y(mean)}`).join("L")}`);
      const every = Math.ceil(curve.length / 12);
      curve.forEach(([at, mean], place) => {
        if ((curve.length - 1 - place) % every === 0) marker(group, row, x(at), y(mean), 3.4);
      });
      const [at, mean] = curve.at(-1);
      labels.push({ group, number: row.number, x: x(at) + 8, y: y(mean) + 4 });
    }
    addNumbers(labels);
  }

  // Comparable rows that no other one beats in one thing and matches in the other.
  function paretoFront(rows) {
    const beats = (a, b) => a[0] <= b[0] && a[1] >= b[1] && (a[0] < b[0] || a[1] > b[1]);
    const points = rows.filter((row) => row.comparable)
      .map((row) => [row.costs[state.cost], row.score[0]]);
    return points.filter((point) => !points.some((other) => beats(other, point)))
      .sort((a, b) => a[0] - b[0]);
  }

  function drawTradeOff(svg, table) {
    const rows = table.rows.filter((row) => state.shown.has(row.number) && row.costs[state.cost]);
    if (!rows.length) return empty(svg, `no row shown has ${state.cost} and a ${table.score}`);
    const costs = rows.map((row) => row.costs[state.cost]);
    const ends = rows.flatMap(({ score: [, low, high] }) => [low, high]);
    const log = Math.max(...costs) / Math.min(...costs) > 3;
    const axis = range(costs, page.costLabels[state.cost], { log });
    const most = table.most === null ? Infinity : 1.002 * table.most;
    const [x, y] = frame(svg, axis, range(ends, table.score, { most }));
    const front = paretoFront(rows).map(([cost, score]) => [x(cost), y(score)]);
    const steps = front.map(([px, py], place) => (place ? `H${px}V${py}` : `M${px} ${py}`));
    add(svg, "path", { d: steps.join("") || "M0 0", class: "front" });
    const labels = [];
    for (const row of rows) {
      const group = add(svg, "g", { class: `series ${colorOf(row)}`, "data-row": row.number });
      const [px, py] = [x(row.costs[state.cost]), y(row.score[0])];
      const [mean, low, high] = row.score;
      add(group, "title", {}, `${row.name}: ${mean} at ${short(row.costs[state.cost])}`);
      if (high > low) {
        const [top, bottom] = [y(high), y(low)];
        const caps = `M${px - 4} ${top}h8M${px - 4} ${bottom}h8`;
        add(group, "path", { d: `M${px} ${top}V${bottom}${caps}`, class: "line" });
      }
      marker(group, row, px, py, 4.6);
      // A name has room on the side that is farther from the chart's edge.
      const isRight = px > (BOX.left + BOX.right) / 2;
      const side = isRight ? { x: px - 8, anchor: "end" } : { x: px + 8 };
      const name = `${row.number} ${row.label.slice(0, 20)}`;
      labels.push({ group, number: row.number, name, y: py - 6, ...side });
    }
    addNumbers(labels, 90);
  }

  function drawSwatches() {
    for (const svg of document.querySelectorAll("svg.swatch")) {
      const row = page.tables.flatMap((table) => table.rows)
        .find(({ number }) => number === Number(svg.dataset.row));
      svg.classList.add("series", colorOf(row));
      line(svg, row, "M1 7H35");
      marker(svg, row, 18, 7, 3.6);
    }
  }

  function update() {
    sortTables();
    for (const box of document.querySelectorAll("input[name=show]")) {
      box.checked = state.shown.has(Number(box.value));
    }
    for (const choice of document.querySelectorAll("select[data-key]")) {
      choice.value = state[choice.dataset.key];
    }
    page.tables.forEach((table, place) => {
      drawCurves(document.getElementById(`curves-${place}`), table);
      drawTradeOff(document.getElementById(`cost-${place}`), table);
    });
  }

  // What a person does.

  document.addEventListener("click", ({ target }) => {
    const head = target.closest("th[data-column]");
    if (head && target.closest("button")) {
      const again = head.dataset.column === state.sort && state.order === "ascending";
      change({ sort: head.dataset.column, order: again ? "descending" : "ascending" });
    }
    const wanted = target.closest("button[data-show]")?.dataset.show;
    if (wanted) change({ shown: new Set(wanted === "all" ? numbers : []) });
  });
  document.addEventListener("change", ({ target }) => {
    if (target.name === "show") {
      const shown = new Set(state.shown);
      shown[target.checked ? "add" : "delete"](Number(target.value));
      change({ shown });
    } else if (target.dataset.key) {
      change({ [target.dataset.key]: target.value });
    }
  });
  document.addEventListener("mouseover", ({ target }) => {
    const number = target.closest("[data-row]")?.dataset.row;
    document.body.classList.toggle("pointing", number !== undefined);
    for (const series of document.querySelectorAll("g.series")) {
      series.classList.toggle("pointed", series.dataset.row === number);
    }
  });
  addEventListener("hashchange", () => {
    readAddress();
    update();
  });
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });

  drawSwatches();
  readAddress();
  update();
})();

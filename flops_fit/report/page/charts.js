// Draws the figures of the page's data with Observable Plot. What is drawn was decided in Python
// (report/figures); here it only meets the width of the screen and whoever points at it.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const SYMBOLS = { dot: "circle", hollow: "circle", star: "star", "hollow star": "star", diamond: "diamond2", square: "square", above: "triangle" };
  const RADII = { dot: 3.2, hollow: 3.2, star: 5.5, "hollow star": 5.5, diamond: 4, square: 4, above: 4 };
  const DASHES = { solid: null, dashed: "6,4", dotted: "2,3", dashdot: "7,3,2,3" };

  const digits = (value, count) => String(Number(value.toPrecision(count)));

  function count(value) {
    if (value >= 1e15) return flops(value);
    for (const [limit, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= limit) return digits(value / limit, 3) + suffix;
    }
    return digits(value, 3);
  }

  function flops(value) {
    if (!value) return "0";
    let [head, exponent] = value.toExponential(2).split("e");
    head = digits(Number(head), 3);
    const raised = [...String(Number(exponent))].map((c) => SUPERSCRIPTS[c]).join("");
    return (head === "1" ? "" : head + "×") + "10" + raised;
  }

  const WRITERS = {
    count,
    flops,
    plain: (value) => digits(value, 4),
    loss: (value) => value.toPrecision(5),
    percent: (value) => (value > 0 ? "+" : "") + digits(100 * value, 3) + "%",
    factor: (value) => "×" + digits(value, 3),
  };

  const plainText = (html) => html.replace(/<[^>]*>/g, "").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;|&#34;/g, '"').replace(/&#x27;|&#39;/g, "'").replace(/&amp;/g, "&");

  // Round numbers at most so many, on a logarithmic side as 1, 3, 10 or closer.
  function ticks(axis, most) {
    const [low, high] = axis.limits;
    if (!axis.log) return d3.ticks(low, high, most);
    const decades = Math.log10(high / low);
    for (const heads of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const found = [];
      for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++) {
        for (const head of heads) found.push(Number(`${head}e${k}`));
      }
      const inside = found.filter((value) => value >= low && value <= high);
      if (inside.length <= most || heads.length === 1) {
        const step = Math.ceil(inside.length / most);
        if (inside.length >= 3 || decades > 1) return inside.filter((_, i) => i % step === 0);
      }
    }
    return d3.ticks(low, high, most);
  }

  function rows(mark) {
    return mark.x.map((x, i) => ({
      x,
      y: mark.y && mark.y[i],
      low: mark.low && mark.low[i],
      high: mark.high && mark.high[i],
      xBar: mark.xBars && mark.xBars[i],
      yBar: mark.yBars && mark.yBars[i],
      text: mark.texts && mark.texts[i],
    }));
  }

  // The points of a grid that is even in logs.
  function cells(mark) {
    const along = ([low, high], count) => d3.range(count).map((i) => low * (high / low) ** (i / (count - 1)));
    const [xs, ys] = [along(mark.x, mark.width), along(mark.y, mark.height)];
    return mark.z.map((z, i) => ({ x: xs[i % mark.width], y: ys[Math.floor(i / mark.width)], z }));
  }

  const isWhole = (pair) => pair && pair[0] !== null && pair[1] !== null;

  function drawn(mark) {
    const colour = `var(--${mark.colour})`;
    if (mark.kind === "line") {
      return [Plot.line(rows(mark), { x: "x", y: "y", stroke: colour, strokeWidth: mark.width, strokeDasharray: DASHES[mark.dashes], clip: true })];
    }
    if (mark.kind === "band") {
      return [Plot.areaY(rows(mark), { x: "x", y1: "low", y2: "high", fill: colour, fillOpacity: 0.14, clip: true })];
    }
    if (mark.kind === "points") {
      const all = rows(mark).filter((row) => row.y !== null);
      const hollow = mark.symbol.startsWith("hollow");
      const star = mark.symbol.endsWith("star");
      return [
        Plot.ruleX(all.filter((row) => isWhole(row.yBar)), { x: "x", y1: (d) => d.yBar[0], y2: (d) => d.yBar[1], stroke: colour, strokeWidth: 1.2, clip: true }),
        Plot.ruleY(all.filter((row) => isWhole(row.xBar)), { y: "y", x1: (d) => d.xBar[0], x2: (d) => d.xBar[1], stroke: colour, strokeWidth: 1.6, clip: true }),
        Plot.dot(all, {
          x: "x", y: "y", r: RADII[mark.symbol], symbol: SYMBOLS[mark.symbol],
          fill: hollow ? "var(--paper)" : colour,
          stroke: star && !hollow ? "var(--ink)" : hollow ? colour : "var(--paper)",
          strokeWidth: hollow ? 1.3 : star ? 0.8 : 0.5,
        }),
      ];
    }
    if (mark.kind === "contours") {
      const places = mark.places.map(([level, x, y]) => ({ level, x, y }));
      return [
        Plot.contour(cells(mark), {
          x: "x", y: "y", value: "z", interpolate: "barycentric", pixelSize: 3,
          thresholds: mark.levels, stroke: "var(--muted)", strokeWidth: 0.9, clip: true,
        }),
        Plot.text(places, { x: "x", y: "y", text: (d) => digits(d.level, 3), fill: "var(--soft)", stroke: "var(--paper)", strokeWidth: 4, fontSize: 10 }),
      ];
    }
    const line = { stroke: "var(--muted)", strokeDasharray: "2,3" };
    if (mark.vertical) {
      return [
        Plot.ruleX([mark.at], line),
        Plot.text([mark.label], { x: mark.at, frameAnchor: "bottom", text: (d) => d, textAnchor: "end", dx: -5, dy: -6, fill: "var(--soft)", fontSize: 10 }),
      ];
    }
    return [
      Plot.ruleY([mark.at], line),
      Plot.text([mark.label], { y: mark.at, frameAnchor: "left", text: (d) => d, textAnchor: "start", dx: 4, dy: -7, fill: "var(--soft)", fontSize: 10 }),
    ];
  }

  // What can be pointed at: points first, and lines that have a name.
  function pointed(panel) {
    const found = [];
    const [wx, wy] = [WRITERS[panel.x.shown], WRITERS[panel.y.shown]];
    const [xName, yName] = [panel.x, panel.y].map((axis) => plainText(axis.label).replace(/\s*\(.*\)|,.*/, ""));
    for (const mark of panel.marks) {
      if (mark.kind !== "points" && !(mark.kind === "line" && mark.name)) continue;
      for (const row of rows(mark)) {
        if (row.x === null || row.y === null) continue;
        const head = row.text || mark.name.replace(/[_^]\{([^}]*)\}/g, "$1");
        const bars = (pair, write) => (isWhole(pair) ? ` (${write(pair[0])} to ${write(pair[1])})` : "");
        const text = `${head}\n${xName}: ${wx(row.x)}${bars(row.xBar, wx)}` + (mark.symbol === "above" ? "" : `\n${yName}: ${wy(row.y)}${bars(row.yBar, wy)}`);
        found.push({ x: row.x, y: row.y, text });
      }
    }
    return found;
  }

  function draw(container) {
    const figure = data.figures.find((one) => one.name === container.dataset.figure);
    const panel = figure.panels[Number(container.dataset.panel)];
    const width = Math.max(260, container.clientWidth);
    const height = Math.round(Math.min(430, Math.max(270, width * 0.68)));
    const side = (axis) => ({
      type: axis.log ? "log" : "linear",
      domain: axis.limits,
      axis: null,
    });
    // Ticks as marks: on a logarithmic scale Plot would leave out labels.
    const sides = [[panel.x, Math.max(3, Math.round(width / 90)), Plot.axisX, Plot.gridX, "center"], [panel.y, 7, Plot.axisY, Plot.gridY, "top"]];
    const axes = sides.flatMap(([axis, most, drawAxis, drawGrid, labelAnchor]) => {
      const places = ticks(axis, most);
      const label = plainText(axis.label);
      return [drawGrid(places), drawAxis(places, { text: (d) => WRITERS[axis.shown](d), label, labelAnchor, labelArrow: "none" })];
    });
    const hoverable = pointed(panel);
    const chart = Plot.plot({
      width,
      height,
      marginLeft: 58,
      marginRight: 14,
      marginTop: 26,
      marginBottom: 42,
      style: { background: "none", color: "var(--ink)", fontSize: "11px", fontFamily: "inherit" },
      x: side(panel.x),
      y: side(panel.y),
      marks: [
        Plot.frame({ stroke: "var(--edge)" }),
        ...axes,
        ...panel.marks.flatMap(drawn),
        Plot.tip(hoverable, Plot.pointer({ x: "x", y: "y", title: "text", fill: "var(--tip)", stroke: "var(--muted)", fontSize: 12, lineWidth: 26, maxRadius: 30 })),
      ],
      ariaLabel: `${plainText(panel.y.label)} against ${plainText(panel.x.label)}`,
    });
    container.replaceChildren(chart);
    container.dataset.drawn = String(hoverable.length);
  }

  // The small pictures of the legends.
  function key(element) {
    const { look } = element.dataset;
    const line = look in DASHES;
    const inner = line
      ? `<path d="M0 6H20" stroke="currentColor" stroke-width="2" stroke-dasharray="${DASHES[look] || ""}"/>`
      : look === "band"
        ? '<rect width="20" height="12" fill="currentColor" opacity="0.2"/>'
        : `<path transform="translate(10 6)" d="${d3.symbol(d3["symbol" + { circle: "Circle", star: "Star", diamond2: "Diamond2", square: "Square", triangle: "Triangle" }[SYMBOLS[look]]], look.endsWith("star") ? 60 : 40)()}" fill="${look.startsWith("hollow") ? "none" : "currentColor"}" stroke="currentColor"/>`;
    element.innerHTML = `<svg width="20" height="12">${inner}</svg>`;
  }

  document.querySelectorAll(".key").forEach(key);
  const charts = [...document.querySelectorAll(".chart")];
  charts.forEach(draw);
  const widths = new Map(charts.map((chart) => [chart, chart.clientWidth]));
  window.addEventListener("resize", () => charts.forEach((chart) => {
    if (chart.clientWidth === widths.get(chart)) return;
    widths.set(chart, chart.clientWidth);
    draw(chart);
  }));
  window.flopsFit = { data, count, flops, WRITERS };
})();

"use strict";
// Charts as SVG: points or lines with bands in one frame. They take the colours of the page.
window.Charts = (function () {
  const WIDTH = 640, HEIGHT = 340, LEFT = 56, RIGHT = 26, TOP = 12, BOTTOM = 46;

  function node(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Draw a frame. `x` and `y` are {label, low, high, ticks: [[value, text], ...]}. Returns the SVG and
  // functions from values to pixels. `name` tells a reader who does not see the chart what it shows.
  function frame(parent, { name, x, y }) {
    const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": name });
    const across = value => LEFT + (WIDTH - LEFT - RIGHT) * (value - x.low) / (x.high - x.low || 1);
    const down = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y.low) / (y.high - y.low || 1);
    for (const [value, text] of y.ticks) {
      svg.append(node("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: down(value), y2: down(value), class: "rule" }),
        node("text", { x: LEFT - 6, y: down(value) + 4, "text-anchor": "end" }, text));
    }
    for (const [value, text] of x.ticks) svg.append(node("text", { x: across(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, text));
    svg.append(node("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, x.label),
      node("text", { x: 14, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(TOP + HEIGHT - BOTTOM) / 2})` }, y.label));
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.append(svg);
    const save = document.createElement("button");
    save.type = "button";
    save.textContent = "Save as SVG";
    save.onclick = () => download(svg, name);
    parent.append(scroll, save);
    return { svg, across, down };
  }

  // Save a chart as a file for a paper: dark on white, in a font that other programs know.
  function download(svg, name) {
    const copy = svg.cloneNode(true);
    copy.prepend(node("rect", { width: WIDTH, height: HEIGHT, fill: "#ffffff" }));
    for (const text of copy.querySelectorAll("text")) for (const [key, value] of [["fill", "#1f2933"], ["font-size", 13], ["font-family", "sans-serif"]]) text.setAttribute(key, value);
    for (const rule of copy.querySelectorAll(".rule")) rule.setAttribute("stroke", "#d9dee3");
    const file = new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${name.split(";")[0].replace(/[^A-Za-z0-9]+/g, "-")}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // Ticks at round numbers between two values.
  function ticks(low, high, count = 5) {
    const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough);
    const found = [];
    for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9; value += step) found.push([value, String(Number(value.toPrecision(6)))]);
    return found;
  }

  // Lines with bands: series of {name, colour, dash, points: [[x, y, low, high], ...]}.
  function lines(parent, axes, series) {
    const { svg, across, down } = frame(parent, axes);
    for (const { colour, points, dash } of series) {
      const band = points.filter(([, , low, high]) => low !== null && high !== null && low !== undefined);
      if (band.length > 1) {
        const upper = band.map(([x, , , high]) => `${across(x)},${down(high)}`), lower = band.map(([x, , low]) => `${across(x)},${down(low)}`).reverse();
        svg.append(node("polygon", { points: [...upper, ...lower].join(" "), fill: colour, opacity: 0.15 }));
      }
      svg.append(node("polyline", { points: points.map(([x, y]) => `${across(x)},${down(y)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash || "none" }));
      for (const [x, y] of points) svg.append(node("circle", { cx: across(x), cy: down(y), r: 2.5, fill: colour }));
    }
    return svg;
  }

  // Points of [x, y, name, address, colour]. Each is a link.
  function points(parent, axes, data) {
    const { svg, across, down } = frame(parent, axes);
    for (const [x, y, name, address, colour] of data) {
      const link = node("a", { href: address, "aria-label": name }), mark = node("circle", { cx: across(x), cy: down(y), r: 4, fill: colour, class: "mark" });
      mark.append(node("title", {}, name));
      link.append(mark);
      svg.append(link);
    }
    return { svg, across, down };
  }

  // Bars side by side: series of {name, colour, values}, one value per bin of `labels`.
  function bars(parent, axes, series) {
    const { svg, across, down } = frame(parent, axes);
    series.forEach(({ colour, values }, place) => values.forEach((value, bin) => {
      const width = (across(1) - across(0)) / series.length - 1;
      svg.append(node("rect", { x: across(bin) + place * (width + 1), y: down(value), width: Math.max(1, width), height: Math.max(0, down(axes.y.low) - down(value)), fill: colour }));
    }));
    return svg;
  }

  // A legend of [name, colour, dash].
  function legend(parent, entries) {
    const line = document.createElement("p");
    line.className = "legend";
    for (const [name, colour, dash] of entries) {
      const item = document.createElement("span"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.borderColor = colour;
      swatch.style.borderTopStyle = !dash ? "solid" : dash.startsWith("2") ? "dotted" : "dashed";
      item.append(swatch, `${name} `);
      line.append(item);
    }
    parent.append(line);
  }

  return { lines, points, bars, ticks, legend, node };
})();

"use strict";
// A picture with a canvas above it: heat map and boxes, redrawn when a slider moves. The picture is
// never drawn into the canvas: a page opened from a file may not read such a canvas.
window.Viewer = (function () {
  const { get, element } = window.Atlas;
  // Warm colours, from weak to strong: visible on grey tissue.
  const COLOURS = [[179, 38, 30], [232, 89, 12], [255, 169, 77], [255, 243, 191]];
  const all = new Set();

  function colour(share) {
    const place = share * (COLOURS.length - 1), first = Math.min(COLOURS.length - 2, Math.floor(place));
    return COLOURS[first].map((low, i) => Math.round(low + (COLOURS[first + 1][i] - low) * (place - first)));
  }

  // The active cells of a packed map (heat.py): [cell, level], ...
  function cells(text) {
    const data = Uint8Array.from(atob(text.slice(1)), letter => letter.charCodeAt(0)), found = [];
    if (text[0] === "s") for (let i = 0; i < data.length; i += 3) found.push([data[i] + 256 * data[i + 1], data[i + 2]]);
    else data.forEach((level, cell) => { if (level) found.push([cell, level]); });
    return found;
  }

  // The value of a control, or its default on a page without controls.
  function setting(name, otherwise) { return get(name) ? Number(get(name).value) : otherwise; }

  function draw(view) {
    const { height, width, colours } = window.ATLAS.run;
    const pen = view.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const opacity = setting("opacity", 60) / 100, least = setting("threshold", 0) / 100;
    const { rows, columns, stride, x, y } = view.grid;
    for (const [cell, level] of view.cells) {
      if (level / 255 < least || cell >= rows * columns) continue;
      const [red, green, blue] = colour(level / 255);
      pen.fillStyle = `rgba(${red}, ${green}, ${blue}, ${opacity * (0.4 + 0.6 * level / 255)})`;
      pen.fillRect(x + (cell % columns) * stride, y + Math.floor(cell / columns) * stride, stride, stride);
    }
    if (get("boxes") && !get("boxes").checked) return;
    pen.lineWidth = Math.max(1, height / 200);
    for (const [region, [left, top, right, bottom]] of Object.entries(view.boxes)) {
      pen.strokeStyle = colours[region] || "#ffd43b";
      pen.strokeRect(left, top, right - left, bottom - top);
    }
  }

  function grey() {
    const low = Number(get("low").value), high = Math.max(low + 1, Number(get("high").value));
    for (const channel of document.querySelectorAll("#window feFuncR, #window feFuncG, #window feFuncB")) {
      channel.setAttribute("slope", 255 / (high - low));
      channel.setAttribute("intercept", -low / (high - low));
    }
  }

  // Add a picture of an image with a latent's heat map to `parent`. It links to the image's page, or
  // to that of the latent if its address is given.
  function add(parent, { image, heat, grid, caption, latent }) {
    const { height, width, images, live } = window.ATLAS.run;
    const known = (window.ATLAS.images || {})[image] || { boxes: {}, facts: {}, labels: {} };
    const stored = images === "stored" && (known.stored || live), page = known.page || live;
    const figure = element("figure"), view = element("div", null, { class: "view", tabindex: "0", role: "group", "aria-label": caption });
    const sheet = element("div", null, { class: "sheet", style: `aspect-ratio: ${width} / ${height}` });
    if (images === "stored" && !stored) sheet.append(element("p", "This picture is not stored.", { class: "absent" }));
    if (stored) {
      const { view: projection, side } = known.facts;
      const alt = `Mammogram ${image}, ${projection || "view unknown"}, side ${side || "unknown"}`;
      sheet.append(element("img", null, { src: `images/${encodeURIComponent(image)}.webp`, alt, loading: "lazy" }));
    }
    if (stored && get("outlines")) sheet.append(element("img", null, { "data-src": `outlines/${encodeURIComponent(image)}.png`, alt: "", class: "outline", loading: "lazy" }));
    const canvas = element("canvas", null, { width, height, "aria-hidden": "true" });
    sheet.append(canvas);
    view.append(sheet);
    const text = element("figcaption");
    const address = latent ? `latent.html#${latent}` : page ? `image.html#${encodeURIComponent(image)}` : null, shownName = latent ? `latent ${latent.split("/").pop()}` : image;
    text.append(address ? element("a", shownName, { href: address }) : shownName, ` ${caption}`);
    figure.append(view, text);
    parent.append(figure);
    if (get("outlines")) trace();
    const one = { canvas, grid, cells: cells(heat), boxes: known.boxes };
    all.add(one);
    draw(one);
  }

  // Show the outlines if they are wanted. Their files are not read before.
  function trace() {
    const wanted = get("outlines").checked;
    document.body.classList.toggle("outlined", wanted);
    if (wanted) for (const one of document.querySelectorAll("img.outline:not([src])")) one.src = one.dataset.src;
  }

  function clear() { all.clear(); }

  function legend() {
    const { colours, images } = window.ATLAS.run;
    const line = get("legend");
    line.textContent = images === "none" ? "This atlas was built without pixels. " : "";
    for (const [region, value] of Object.entries(colours)) {
      line.append(element("span", null, { class: "swatch", style: `border-color: ${value}` }), `${window.Atlas.words(region)} `);
    }
  }

  if (get("controls")) {
    for (const name of ["opacity", "threshold", "boxes"]) {
      get(name).addEventListener("input", () => {
        get("threshold-value").textContent = `${get("threshold").value} %`;
        for (const view of all) draw(view);
      });
    }
    get("outlines").addEventListener("input", trace);
    for (const name of ["low", "high"]) get(name).addEventListener("input", grey);
    get("zoom").addEventListener("input", () => {
      document.documentElement.style.setProperty("--zoom", get("zoom").value);
    });
    legend();
  }
  return { add, clear };
})();

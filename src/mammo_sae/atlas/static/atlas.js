"use strict";
// What all pages share: addresses, data files, tables of plain cells.
window.Atlas = (function () {
  // DataTables takes its dark colours from this class.
  document.documentElement.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
  const get = name => document.getElementById(name);

  function element(name, text, attributes) {
    const made = document.createElement(name);
    if (text !== undefined && text !== null) made.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    return made;
  }

  // Load a data file once; the promise gives the value that it assigns.
  const pending = {};
  function load(path, key) {
    const known = window.ATLAS || {};
    if (key in known) return Promise.resolve(known[key]);
    pending[path] = pending[path] || new Promise((done, failed) => {
      const script = element("script", null, { src: `data/${path}` });
      script.onload = () => done(window.ATLAS[key]);
      script.onerror = () => failed(new Error(`The atlas has no file data/${path}.`));
      document.head.append(script);
    });
    return pending[path];
  }

  // Ask the server for what the folder does not hold (live.py). Facts of images are kept.
  async function ask(path) {
    const answer = await fetch(`live/${path.split("/").map(encodeURIComponent).join("/")}`).catch(() => null);
    if (!answer) throw new Error("The server does not answer. Start it again: mammo-sae serve.");
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const found = await answer.json();
    Object.assign(window.ATLAS.images, found.images);
    return found;
  }

  // Add a button that shows the next entries. `next` shows those from a number on, and gives how many
  // it has shown and how many there are. Returns the button.
  function more(parent, what, next) {
    const button = element("button", `Show ${what}`, { type: "button" });
    let start = 0;
    button.onclick = async () => {
      button.disabled = true;
      try {
        const [count, total] = await next(start);
        start += count;
        button.textContent = `Show more ${what} (${start} of ${total} are shown)`;
        button.disabled = start >= total;
      } catch (error) { problem(error.message); }
    };
    parent.append(button);
    return button;
  }

  // The parts of the address after #, such as encoder, layer, sae, seed, latent.
  function parts() {
    return location.hash.slice(1).split("/").map(decodeURIComponent).filter(Boolean);
  }

  function sae() {
    const wanted = parts().slice(0, 4).join("/");
    const all = window.ATLAS.run.saes;
    return all.find(one => one.address === (wanted || window.ATLAS.run.first)) || null;
  }

  function problem(text) {
    get("problem").textContent = text || "";
    get("problem").hidden = !text;
  }

  function words(name) { return String(name).replaceAll("_", " "); }

  function shown(value) {
    if (value === null || value === undefined || value === "") return "–";
    if (value === true) return "yes";
    if (value === false) return "no";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e4 ? value.toFixed(size < 0.1 ? 4 : size < 10 ? 3 : 2) : value.toExponential(1);
  }

  // The name of a column as a heading.
  function title(name) {
    const text = words(name).replace(/\b(auroc|auprc|iou|f1|sae)\b/g, word => word.toUpperCase());
    return text.length > 1 ? text[0].toUpperCase() + text.slice(1) : text;
  }

  function label(one) { return `${one.encoder}, ${one.layer}, ${one.sae}, seed ${one.seed}`; }

  function missing(value) { return value === null || value === undefined || value === ""; }

  // The text of a cell: names without underscores, sentences as they are.
  function spoken(column, value) {
    if (column === "q" && typeof value === "number" && value < 0.001) return "< 0.001";
    return typeof value === "string" && column !== "reason" && !missing(value) ? words(value).replace(/^where: /, "") : shown(value);
  }

  // The columns of {names, rows} that a reader sees: each estimate with its interval in one column,
  // and no column without a value. Each has a heading, a value to sort by and a text.
  function columnsOf({ names, rows }) {
    const at = Object.fromEntries(names.map((name, i) => [name, i]));
    const base = name => name === "low" || name === "high" ? "value" : name.replace(/_(low|high)$/, "");
    return names.filter(name => (base(name) === name || !(base(name) in at)) && rows.some(row => !missing(row[at[name]]))).map(name => {
      const ends = ["low", "high"].map(end => at[name === "value" ? end : `${name}_${end}`]);
      const text = row => {
        const [low, high] = ends.map(end => end === undefined ? null : row[end]);
        return spoken(name, row[at[name]]) + (missing(low) || missing(high) ? "" : ` [${shown(low)}, ${shown(high)}]`);
      };
      return { name, title: title(name), value: row => row[at[name]], text };
    });
  }

  // A table of {names, rows}. `link` may turn a cell into an address.
  function table(content, link) {
    const made = element("table"), columns = columnsOf(content);
    const head = made.createTHead().insertRow();
    for (const column of columns) head.append(element("th", column.title, { scope: "col" }));
    const body = made.createTBody();
    for (const row of content.rows) {
      const line = body.insertRow();
      for (const column of columns) {
        const cell = line.insertCell(), value = column.value(row), address = link && link(column.name, value, row);
        if (typeof value === "number") cell.className = "number";
        if (column.name === "reason") cell.className = "reason";
        if (address) cell.append(element("a", column.text(row), { href: address }));
        else cell.textContent = column.text(row);
      }
    }
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    scroll.append(made);
    return scroll;
  }

  // Missing values sort last in both directions.
  function order(sign) {
    return (a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const found = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
      return sign * found;
    };
  }

  // A table with search, sorting and pages. `link` is as above. The column `sorted` gives the first
  // order. Returns the DataTable.
  function grid(parent, content, link, sorted) {
    const columns = columnsOf(content), first = columns.findIndex(column => column.name === sorted), made = element("table", null, { class: "display compact" }), scroll = element("div", null, { class: "scroll" });
    scroll.append(made);
    parent.append(scroll);
    window.DataTable.type("missing-last", { order: { asc: order(1), desc: order(-1) } });
    return new window.DataTable(made, {
      data: content.rows, deferRender: true, pageLength: 25, autoWidth: false, order: first < 0 ? [] : [[first, "asc"]],
      columns: columns.map(column => ({
        title: column.title, type: "missing-last", data: null,
        className: column.name === "reason" ? "reason" : "",
        render: (row, kind) => {
          if (kind === "sort" || kind === "type") return column.value(row);
          if (kind !== "display") return column.text(row);
          const address = link && link(column.name, column.value(row), row);
          return address ? element("a", column.text(row), { href: address }).outerHTML : element("span", column.text(row)).innerHTML;
        },
      })),
    });
  }

  // A choice with a label: entries of [value, text]. `changed` runs after each choice.
  function choice(parent, name, entries, changed) {
    const outer = element("label", `${name} `), select = element("select");
    for (const [value, text] of entries) select.append(element("option", text, { value }));
    select.onchange = () => changed();
    outer.append(select);
    parent.append(outer);
    return select;
  }

  // Fill the choice of SAEs; `go` gives the address of the page for one.
  function chooseSae(go) {
    const select = get("sae");
    select.onchange = () => { location.hash = go(select.value); };
    return address => { select.value = address; };
  }

  // Show the page now and when its address changes. One showing ends before the next begins, so that
  // two that wait for data don't mix. Returns a function that shows the page again.
  function run(show) {
    let last = Promise.resolve();
    const safely = () => {
      last = last.then(() => {
        const address = location.hash || "#";
        return show().catch(error => problem(error.message)).then(() => { document.body.dataset.ready = address; });
      });
    };
    window.addEventListener("hashchange", safely);
    safely();
    return safely;
  }

  return { get, element, load, ask, more, parts, sae, label, problem, words, title, shown, missing, spoken, table, grid, choice, chooseSae, run };
})();

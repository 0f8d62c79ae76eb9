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

  // The parts of the address after #, such as encoder, layer, sae, seed, latent.
  function parts() {
    return location.hash.slice(1).split("/").map(decodeURIComponent).filter(Boolean);
  }

  function sae() {
    const wanted = parts().slice(0, 4).join("/");
    const all = window.ATLAS.run.saes;
    return all.find(one => one.address === wanted) || (parts().length ? null : all[all.length - 1]);
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
    return size >= 1e-3 && size < 1e4 ? String(Number(value.toFixed(size < 0.1 ? 4 : 3))) : value.toExponential(1);
  }

  // A table of {names, rows}. `link` may turn a cell into an address.
  function table(content, link) {
    const made = element("table");
    const head = made.createTHead().insertRow();
    for (const name of content.names) head.append(element("th", words(name), { scope: "col" }));
    const body = made.createTBody();
    for (const row of content.rows) {
      const line = body.insertRow();
      row.forEach((value, column) => {
        const cell = line.insertCell();
        if (typeof value === "number") cell.className = "number";
        const address = link && link(content.names[column], value);
        if (address) cell.append(element("a", shown(value), { href: address }));
        else cell.textContent = shown(value);
      });
    }
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    scroll.append(made);
    return scroll;
  }

  // Fill the choice of SAEs; `go` gives the address of the page for one.
  function chooseSae(go) {
    const select = get("sae");
    select.onchange = () => { location.hash = go(select.value); };
    return address => { select.value = address; };
  }

  function run(show) {
    const safely = () => show().then(() => { document.body.dataset.ready = location.hash || "#"; })
      .catch(error => problem(error.message));
    window.addEventListener("hashchange", safely);
    safely();
  }

  return { get, element, load, parts, sae, problem, words, shown, table, chooseSae, run };
})();

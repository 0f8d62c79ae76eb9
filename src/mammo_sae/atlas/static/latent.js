"use strict";
(function () {
  const { get, element, load, parts, sae, problem, words, shown, table, chooseSae, run } = window.Atlas;
  const TITLES = {
    latents: "Association with each concept", verdicts: "Verdict", alignment: "Location on the lesion, beside its nulls",
    alignment_by_size: "Location by size of the lesion", confounds: "Confounders", effects: "Effect on the logit",
    attribution: "Effect on the logit, through the layers above", matched_latents: "The same latent in the encoder's base",
    replication: "The verdict on other splits", regions: "Tissue under the latent", responses: "Response to planted components",
  };
  const SHARD = 64;
  let current = null;
  const select = chooseSae(address => address);

  async function show() {
    problem("");
    const one = sae();
    if (!one) throw new Error(`No SAE ${parts().slice(0, 4).join("/")} is in this atlas.`);
    const columns = await load(`${one.address}/table.js`, `table/${one.address}`);
    const latents = columns.values[0], pictured = columns.values[2];
    const withImages = latents.filter((_, i) => pictured[i]);
    const latent = parts().length > 4 ? Number(parts()[4]) : withImages[0];
    const place = latents.indexOf(latent);
    select(one.address);
    get("groups").replaceChildren();
    get("sections").replaceChildren();
    window.Viewer.clear();
    if (place < 0) throw new Error(`No latent ${parts()[4]}; this SAE has latents 0 to ${latents[latents.length - 1]}.`);
    get("title").textContent = `Latent ${latent}`;
    document.title = `Latent ${latent}, ${one.address}`;
    get("number").value = latent;
    get("permalink").href = `latent.html#${one.address}/${latent}`;
    const rate = columns.values[1][place];
    const state = rate === null ? "firing rate missing" : rate > 0 ? `active in ${shown(100 * rate)} % of cells` : "dead: active in no cell";
    get("headline").textContent = `${one.address}: ${state}.`;
    current = { one, latent, withImages, record: { latent, ...row(columns, place) } };
    if (!pictured[place]) {
      get("sections").append(element("p", "This latent has no images in the atlas. The setting atlas.latents gives the number of latents that have.", { class: "missing" }), plain(columns, place));
      return;
    }
    const shard = Math.floor(latent / SHARD);
    const record = (await load(`${one.address}/${shard}.js`, `latents/${one.address}/${shard}`))[latent];
    current.record = record;
    badges(record);
    pictures(record, one);
    for (const [name, title] of Object.entries(TITLES)) {
      if (!record.sections[name]) continue;
      get("sections").append(element("h2", title), table(record.sections[name]));
    }
  }

  function row(columns, place) {
    return Object.fromEntries(columns.names.map((name, i) => [name, columns.values[i][place]]));
  }

  function plain(columns, place) {
    return table({ names: ["what", "value"], rows: columns.names.map((name, i) => [name.replace("|", ": "), columns.values[i][place]]) });
  }

  function badges(record) {
    const verdicts = record.sections.verdicts;
    if (!verdicts) { get("headline").append(" It was not tested for confounders."); return; }
    for (const values of verdicts.rows) {
      const [concept, verdict, confounders, where] = values;
      get("headline").append(` ${words(concept)}: `, element("span", verdict, { class: "badge" }), where ? ` ${where};` : ";");
    }
  }

  function pictures(record, one) {
    get("groups").append(element("p", `Images of the ${window.ATLAS.run.split} split. Positive and negative are labels of ${words(record.concept)}.`));
    for (const group of record.groups) {
      get("groups").append(element("h2", group.kind[0].toUpperCase() + group.kind.slice(1)));
      const gallery = element("div", null, { class: "gallery" });
      get("groups").append(gallery);
      for (const { image, positive, activation, heat } of group.images) {
        window.Viewer.add(gallery, { image, heat, grid: one.grid, caption: `${positive ? "positive" : "negative"}, activation ${shown(activation)}` });
      }
      if (!group.images.length) gallery.append(element("p", "No such image.", { class: "missing" }));
    }
  }

  function step(by) {
    if (!current) return;
    const { withImages, latent, one } = current;
    const after = by > 0 ? withImages.find(other => other > latent) : withImages.filter(other => other < latent).pop();
    if (after !== undefined) location.hash = `${one.address}/${after}`;
  }

  function save(name, text, kind) {
    const link = element("a", null, { download: name, href: URL.createObjectURL(new Blob([text], { type: kind })) });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function quoted(value) {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  // One line per number: table, row, column, value.
  function csv(record) {
    const lines = [["table", "row", "column", "value"]];
    for (const [name, { names, rows }] of Object.entries(record.sections || {})) {
      rows.forEach((values, i) => values.forEach((value, j) => lines.push([name, i, names[j], value])));
    }
    if (!record.sections) for (const [name, value] of Object.entries(record)) lines.push(["layer", 0, name, value]);
    return lines.map(line => line.map(quoted).join(",")).join("\n") + "\n";
  }

  get("previous").onclick = () => step(-1);
  get("next").onclick = () => step(1);
  get("number").onchange = () => { if (current) location.hash = `${current.one.address}/${get("number").value}`; };
  document.addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, .view, .scroll")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  const name = () => `latent-${current.one.address.replaceAll("/", "-")}-${current.latent}`;
  get("csv").onclick = () => current && save(`${name()}.csv`, csv(current.record), "text/csv");
  get("json").onclick = () => current && save(`${name()}.json`, JSON.stringify(current.record, null, 1), "application/json");
  run(show);
})();

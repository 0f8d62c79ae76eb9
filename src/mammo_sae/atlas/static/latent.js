"use strict";
(function () {
  const { get, element, load, ask, more, parts, sae, label, problem, words, title, shown, missing, spoken, table, chooseSae, run } = window.Atlas;
  const { bars, legend } = window.Charts;
  const TITLES = {
    names: "Name in words", verdicts: "Verdict, and its reason", latents: "Association with each concept", alignment: "Location on the lesion, beside its nulls",
    alignment_by_size: "Location by size of the lesion", confounds: "Confounders", effects: "Effect on the logit",
    attribution: "Effect on the logit, through the layers above", replication: "The verdict on other splits", regions: "Tissue under the latent",
    seeds: "The same latent in other seeds", nearest: "Latents with a similar direction", together: "Latents that fire on the same images",
    activation_matches: "Its partner in another encoder", matched_by: "Latents of other encoders whose partner it is", matched_latents: "The same latent in the encoder's base",
    responses: "Response to planted components",
  };
  const NOTES = {
    alignment: "Energy lift is the activation inside the lesion's outline divided by the share of the area: 1 is chance. Pointing is the share of images in which the cell of highest activation touches the lesion. Shuffled takes the outlines of other images, matched takes random latents of equal firing rate.",
    effects: "A positive effect raises the logit of positive images above that of negative images. The share is that of the difference between both.",
    confounds: "Crude is the AUROC for the concept, stratified the same among images alike in the confounder. Conditional is the AUROC for the confounder among images alike in the concept.",
    seeds: "The most similar latent of the SAE of each other seed. The latent is found again if the cosine of both directions is at least 0.7.",
    nearest: "The cosine of both directions, in the SAEs of the same layer. A cosine near 1 in an SAE of another seed means that training finds this latent again.",
    names: "The phrase that fits best is the name if a decoy, a random direction and chance fit less well. The label of the phrase may be the concept, a confounder of the verdict, or neither.",
    activation_matches: "The partner has the highest rank correlation over the images that rank latents; the correlation is that over the images of the test. Chance is what 5 % of latents exceed when patients are exchanged.",
    together: "The correlation of the activations over the images of the split, with latents of all SAEs that have images.",
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
    const latent = parts().length > 4 ? Number(parts()[4]) : withImages.length ? withImages[0] : latents[0];
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
    const state = rate === null ? "firing rate missing" : rate > 0 ? `active in ${shown(100 * rate)} % of all cells` : "dead: active in no cell of the discovery split";
    get("headline").textContent = `${label(one)}: ${state}.`;
    get("summary").replaceChildren(...window.ATLAS.run.concepts.map(concept => summary(row(columns, place), concept)));
    current = { one, latent, withImages, record: { latent, ...row(columns, place) } };
    if (!pictured[place] && !window.ATLAS.run.live) {
      get("sections").append(element("p", "This latent has no images in the atlas. The setting atlas.latents gives the number of latents that have.", { class: "missing" }), plain(columns, place));
      return;
    }
    const shard = Math.floor(latent / SHARD);
    const record = pictured[place] ? (await load(`${one.address}/${shard}.js`, `latents/${one.address}/${shard}`))[latent] : (await ask(`latent/${one.address}/${latent}`)).record;
    current.record = record;
    called(record.sections.names);
    again(record.sections.seeds);
    pictures(record, one);
    if (window.ATLAS.run.live) ranked(one, record);
    histogram(record);
    for (const [name, heading] of Object.entries(TITLES)) {
      const section = record.sections[name];
      if (!section) continue;
      get("sections").append(element("h2", heading));
      if (NOTES[name]) get("sections").append(element("p", NOTES[name], { class: "hint" }));
      if (!section.rows.length) get("sections").append(element("p", "None.", { class: "missing" }));
      else get("sections").append(table(section, (column, value, values) => column === "latent" && section.names[0] === "sae" && !missing(value) ? `latent.html#${values[0]}/${value}` : null));
    }
  }

  function row(columns, place) {
    return Object.fromEntries(columns.names.map((name, i) => [name, columns.values[i][place]]));
  }

  function plain(columns, place) {
    return table({ names: ["what", "value"], rows: columns.names.map((name, i) => [name.replace("|", ": "), columns.values[i][place]]) });
  }

  // The name in words, if the latent has one.
  function called(section) {
    if (!section) return;
    const of = name => section.rows[0][section.names.indexOf(name)];
    if (!of("name")) return;
    const second = missing(of("runner_up")) ? "" : `, runner-up “${of("runner_up")}”`;
    get("headline").append(` Its name is “${of("name")}” (q ${spoken("q", of("q"))}${second}).`);
  }

  // In how many other seeds the latent is found again.
  function again(section) {
    if (!section) return;
    const place = section.names.indexOf("found_again"), count = section.rows.filter(row => row[place]).length;
    get("headline").append(` It is found again in ${count} of ${section.rows.length} other ${section.rows.length === 1 ? "seed" : "seeds"}.`);
  }

  // What is known of the latent for one concept, in one line.
  function summary(values, concept) {
    const of = name => values[`${concept}|${name}`], line = element("li", `${title(concept)}: `);
    if (missing(of("auroc"))) { line.append("no AUROC."); return line; }
    line.append(`AUROC ${shown(of("auroc"))} [${shown(of("auroc_low"))}, ${shown(of("auroc_high"))}], q ${spoken("q", of("q"))}, rank ${shown(of("rank_auroc"))}. `);
    if (of("verdict")) line.append(element("span", of("verdict"), { class: "badge" }), of("confounders") ? ` by ${words(of("confounders"))}. ` : " ");
    else line.append("Not tested for confounders. ");
    if (of("where")) line.append(`Where it fires: ${of("where").replace("where: ", "")}. `);
    if (!missing(of("effect"))) line.append(`${of("effect") > 0 ? "Raises" : "Lowers"} the logit of positive images by ${shown(Math.abs(of("effect")))} against negative images.`);
    return line;
  }

  // Numbers of images by activation, positive beside negative. Images without activation are in words.
  function histogram(record) {
    const { positive, negative } = record.histogram, counts = [...positive.counts, ...negative.counts], bins = positive.counts.length;
    get("sections").append(element("h2", "Activations of all images"));
    get("sections").append(element("p", `It does not fire in ${positive.silent} positive and ${negative.silent} negative images for ${words(record.concept)}. The chart has the others.`));
    const most = Math.max(...counts);
    if (!most) return;
    const high = Math.log10(most + 1), marks = [0, 1, 10, 100, 1000, 10000, 100000].filter(count => count <= most);
    const series = [{ name: "positive", colour: "#d55e00", values: positive.counts }, { name: "negative", colour: "#0072b2", values: negative.counts }];
    bars(get("sections"), { name: "Numbers of images by activation", x: { label: "highest activation in the image", low: 0, high: bins, ticks: [0, 0.25, 0.5, 0.75, 1].map(share => [share * bins, shown(share * record.top)]) }, y: { label: "images (log)", low: 0, high, ticks: marks.map(count => [Math.log10(count + 1), String(count)]) } },
      series.map(one => ({ ...one, values: one.values.map(count => Math.log10(count + 1)) })));
    legend(get("sections"), series.map(({ name, colour }) => [name, colour]));
  }

  function pictures(record, one) {
    get("groups").append(element("p", `Images of the ${window.ATLAS.run.split} split. Positive and negative are labels of ${words(record.concept)}.`));
    for (const group of record.groups) {
      get("groups").append(element("h2", group.kind[0].toUpperCase() + group.kind.slice(1)));
      const gallery = element("div", null, { class: "gallery" });
      get("groups").append(gallery);
      for (const image of group.images) picture(gallery, image, one);
      if (!group.images.length) gallery.append(element("p", "No such image.", { class: "missing" }));
    }
  }

  function picture(gallery, { image, positive, activation, heat }, one) {
    window.Viewer.add(gallery, { image, heat, grid: one.grid, caption: `${positive ? "positive" : "negative"}, activation ${shown(activation)}` });
  }

  // All images of the split with a label, in a served atlas.
  function ranked(one, { latent, concept }) {
    const gallery = element("div", null, { class: "gallery" });
    get("groups").append(element("h2", `All images of the ${window.ATLAS.run.split} split with a label of ${words(concept)}, by activation`), gallery);
    more(get("groups"), "images", async start => {
      const found = await ask(`ranked/${one.address}/${latent}/${start}`);
      for (const image of found.ranked) picture(gallery, image, one);
      return [found.ranked.length, found.total];
    });
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

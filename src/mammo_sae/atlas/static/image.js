"use strict";
(function () {
  const { get, element, load, parts, label, problem, words, title, shown, run } = window.Atlas;
  const all = Object.keys(window.ATLAS.images).filter(name => window.ATLAS.images[name].page).sort();
  get("image").append(...all.map(name => element("option", name, { value: name })));
  get("image").onchange = () => { location.hash = encodeURIComponent(get("image").value); };

  async function show() {
    problem("");
    const image = parts()[0] || all[0];
    get("layers").replaceChildren();
    get("facts").replaceChildren();
    window.Viewer.clear();
    get("whole").replaceChildren();
    if (image === undefined) throw new Error("This atlas shows no image.");
    if (!all.includes(image)) throw new Error(`No image ${image} is in this atlas.`);
    get("image").value = image;
    get("title").textContent = `Image ${image}`;
    window.Viewer.add(get("whole"), { image, heat: "s", grid: window.ATLAS.run.saes[0].grid, caption: "without a heat map" });
    const { facts, labels } = window.ATLAS.images[image], says = { 0: "no", 1: "yes" };
    const entries = [...Object.entries(facts), ...Object.entries(labels).map(([name, value]) => [name, says[value] || null])];
    for (const [name, value] of entries) {
      const pair = element("li");
      pair.append(element("span", `${title(name)}: `, { class: "hint" }), shown(value));
      get("facts").append(pair);
    }
    const record = await load(`images/${image}.js`, `image/${image}`);
    const saes = window.ATLAS.run.saes.filter(one => record[one.address]);
    const linear = saes.filter(one => Object.keys(record[one.address].adding).length);
    get("layers").append(element("h2", "Why this score?"));
    if (!linear.length) get("layers").append(element("p", "No logit of this run is linear in the codes of an SAE, so no score can be taken apart.", { class: "missing" }));
    for (const one of linear) for (const [concept, part] of Object.entries(record[one.address].adding)) apart(one, concept, part);
    for (const one of saes) {
      const details = element("details"), gallery = element("div", null, { class: "gallery" }), { firing } = record[one.address];
      details.append(element("summary", `Latents that fire: ${label(one)}`), gallery);
      details.open = one.address === window.ATLAS.run.first;
      get("layers").append(details);
      for (const { latent, activation, share, heat } of firing) {
        window.Viewer.add(gallery, { image, heat, grid: one.grid, caption: `activation ${shown(activation)}, ${Math.round(100 * share)} % of its highest`, latent: `${one.address}/${latent}` });
      }
      if (!firing.length) gallery.append(element("p", "None of the latents with images fires.", { class: "missing" }));
    }
  }

  // The parts of a logit, which sum to it, as a table with bars.
  function apart(one, concept, part) {
    const rows = [["the head's offset and the SAE's bias", part.offset]];
    for (const [latent, adds] of part.latents) rows.push([latent, adds]);
    rows.push([`the ${part.others} other latents that fire`, part.rest]);
    rows.push(["what the SAE leaves out (its error)", part.error]);
    const sign = part.logit === null ? "" : ` The probability is ${(100 / (1 + Math.exp(-part.logit))).toFixed(2)} %.`;
    const details = element("details"), made = element("table"), body = made.createTBody(), most = Math.max(...rows.map(([, adds]) => Math.abs(adds || 0))) || 1;
    details.open = one.encoder === window.ATLAS.run.first.split("/")[0];
    details.append(element("summary", `${title(concept)}, ${one.encoder}: logit ${shown(part.logit)}`), element("p", `The logit of ${words(concept)} is ${shown(part.logit)}.${sign} It is the sum of these parts (${label(one)}).`));
    const head = made.createTHead().insertRow();
    for (const text of ["Part", "Adds", ""]) head.append(element("th", text, { scope: "col" }));
    for (const [name, adds] of rows) {
      const line = body.insertRow(), cell = element("th", null, { scope: "row" }), bar = element("td");
      cell.append(typeof name === "number" ? element("a", `latent ${name}`, { href: `latent.html#${one.address}/${name}` }) : name);
      const size = 50 * Math.abs(adds || 0) / most;
      bar.append(element("span", null, { class: "bar", style: `width: ${size}%; margin-left: ${adds < 0 ? 50 - size : 50}%; background: ${adds < 0 ? "#0072b2" : "#d55e00"}` }));
      bar.className = "bars";
      line.append(cell, element("td", shown(adds), { class: "number" }), bar);
    }
    const line = body.insertRow();
    line.append(element("th", "Logit", { scope: "row" }), element("td", shown(part.logit), { class: "number" }), element("td"));
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    scroll.append(made);
    details.append(scroll);
    get("layers").append(details);
  }

  run(show);
})();

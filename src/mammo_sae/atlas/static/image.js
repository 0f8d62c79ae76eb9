"use strict";
(function () {
  const { get, element, load, ask, more, parts, label, problem, words, title, shown, missing, run } = window.Atlas;
  const all = Object.keys(window.ATLAS.images).filter(name => window.ATLAS.images[name].page).sort();
  get("image").append(...all.map(name => element("option", name, { value: name })));
  const { live } = window.ATLAS.run;
  get("any").hidden = !live;
  if (live) get("choice").textContent = "They are taken from all latents.";
  for (const name of ["image", "pseudonym"]) get(name).onchange = () => { location.hash = encodeURIComponent(get(name).value.trim()); };

  async function show() {
    problem("");
    const image = parts()[0] || all[0];
    get("layers").replaceChildren();
    get("facts").replaceChildren();
    window.Viewer.clear();
    get("whole").replaceChildren();
    if (image === undefined) throw new Error("This atlas shows no image.");
    if (!live && !all.includes(image)) throw new Error(`No image ${image} is in this atlas.`);
    const record = live ? (await ask(`image/${image}`)).record : await load(`images/${image}.js`, `image/${image}`);
    get("image").value = get("pseudonym").value = image;
    get("title").textContent = `Image ${image}`;
    window.Viewer.add(get("whole"), { image, heat: "s", grid: window.ATLAS.run.saes[0].grid, caption: "without a heat map" });
    const { facts, labels } = window.ATLAS.images[image], says = { 0: "no", 1: "yes" };
    const entries = [...Object.entries(facts), ...Object.entries(labels).map(([name, value]) => [name, says[value] || null])];
    for (const [name, value] of entries) {
      const pair = element("li");
      pair.append(element("span", `${title(name)}: `, { class: "hint" }), shown(value));
      get("facts").append(pair);
    }
    const saes = window.ATLAS.run.saes.filter(one => record[one.address]);
    const linear = saes.filter(one => Object.keys(record[one.address].adding).length);
    get("layers").append(element("h2", "Why this score?"));
    if (!linear.length) get("layers").append(element("p", "No logit of this run is linear in the codes of an SAE, so no score can be taken apart.", { class: "missing" }));
    for (const one of linear) for (const [concept, part] of Object.entries(record[one.address].adding)) apart(one, concept, part);
    for (const one of saes) {
      const details = element("details"), gallery = element("div", null, { class: "gallery" });
      details.append(element("summary", `Latents that fire: ${label(one)}`), gallery);
      details.open = one.address === window.ATLAS.run.first;
      get("layers").append(details);
      if (live) served(details, gallery, image, one);
      else fill(gallery, image, one, record[one.address].firing);
    }
  }

  function fill(gallery, image, one, firing) {
    for (const { latent, activation, share, heat } of firing) {
      const part = missing(share) ? "" : `, ${Math.round(100 * share)} % of its highest`;
      window.Viewer.add(gallery, { image, heat, grid: one.grid, caption: `activation ${shown(activation)}${part}`, latent: `${one.address}/${latent}` });
    }
    if (!gallery.children.length) gallery.append(element("p", `None of the latents${live ? "" : " with images"} fires.`, { class: "missing" }));
  }

  // In a served atlas, the latents of an SAE are asked for when its part of the page is opened. Any
  // latent can be shown by its number.
  function served(details, gallery, image, one) {
    const line = element("p", null, { class: "controls" }), outer = element("label", "Heat map of latent "), number = element("input", null, { type: "number", min: 0, max: one.latents - 1, step: 1 });
    const button = more(line, "latents", async start => {
      const { firing, total } = await ask(`firing/${one.address}/${image}/${start}`);
      fill(gallery, image, one, firing);
      return [firing.length, total];
    });
    number.onchange = () => ask(`map/${one.address}/${image}/${number.value}`).then(({ firing }) => { problem(""); fill(gallery, image, one, firing); }).catch(error => problem(error.message));
    outer.append(number);
    line.append(outer);
    details.append(line);
    details.addEventListener("toggle", () => button.click(), { once: true });
  }

  // The parts of a logit, which sum to it, as a table with bars.
  function apart(one, concept, part) {
    const rows = [["the head's offset and the SAE's bias", part.offset]];
    for (const [latent, adds] of part.latents) rows.push([latent, adds]);
    rows.push([`the ${part.others} other ${part.others === 1 ? "latent that fires" : "latents that fire"}`, part.rest]);
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

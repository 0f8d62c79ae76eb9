"use strict";
(function () {
  const { get, element, load, parts, problem, words, shown, table, run } = window.Atlas;
  const all = Object.keys(window.ATLAS.images).sort();
  get("image").append(...all.map(name => element("option", name, { value: name })));
  get("image").onchange = () => { location.hash = encodeURIComponent(get("image").value); };

  async function show() {
    problem("");
    const image = parts()[0] || all[0];
    get("layers").replaceChildren();
    get("facts").replaceChildren();
    window.Viewer.clear();
    if (image === undefined) throw new Error("This atlas shows no image.");
    if (!all.includes(image)) throw new Error(`No image ${image} is in this atlas.`);
    get("image").value = image;
    get("title").textContent = `Image ${image}`;
    const { facts, labels } = window.ATLAS.images[image];
    for (const [name, value] of [...Object.entries(facts), ...Object.entries(labels)]) {
      const pair = element("div");
      pair.append(element("dt", words(name)), element("dd", shown(value)));
      get("facts").append(pair);
    }
    const record = await load(`images/${image}.js`, `image/${image}`);
    for (const one of window.ATLAS.run.saes) {
      if (!record[one.address]) continue;
      const { firing, adding } = record[one.address];
      get("layers").append(element("h2", one.address));
      for (const [concept, part] of Object.entries(adding)) {
        get("layers").append(element("h3", `What latents add to the logit of ${words(concept)}`),
          element("p", `All latents together add ${shown(part.sum)}; those that are not named add ${shown(part.rest)}. The head's offset and the part of the embedding that the SAE misses are not counted.`),
          table({ names: ["latent", "adds"], rows: part.latents }, (column, value) => column === "latent" ? `latent.html#${one.address}/${value}` : null));
      }
      get("layers").append(element("h3", "Latents that fire"));
      const gallery = element("div", null, { class: "gallery" });
      get("layers").append(gallery);
      for (const { latent, activation, share, heat } of firing) {
        window.Viewer.add(gallery, { image, heat, grid: one.grid, caption: `latent ${latent}, activation ${shown(activation)} (${shown(100 * share)} % of its highest)`, latent: `${one.address}/${latent}` });
      }
      if (!firing.length) gallery.append(element("p", "None of the latents with images fires.", { class: "missing" }));
    }
  }

  run(show);
})();

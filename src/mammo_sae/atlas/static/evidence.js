"use strict";
// The pages of confounders, interventions and known truth: charts of the page, then its tables.
(function () {
  const { get, element, load, parts, sae, label, problem, words, grid, chooseSae, run } = window.Atlas;
  const page = document.body.dataset.page;
  const select = chooseSae(address => address);
  // Table -> its heading. The tables have this order.
  const HEADINGS = {
    confounds: "Every test of a latent against a confounder",
    interventions: "Scores after the first k latents are removed or kept alone",
    ablation: "Scores before and after the latents that a confounder explains are ablated",
    reliance: "What the prediction rests on, by verdict",
    truth: "Verdicts compared with the planted confounders",
  };

  const NOTES = {
    interventions: "Mode off removes the latents, and on keeps them alone. Spliced: the SAE's reconstruction replaces the embedding. Error preserving: the part that the SAE misses is added again.",
    ablation: "The scores of all images, of each group of the confounder and of the worst group. Refit: the head is fitted again after the ablation. Random difference: as many latents at random.",
    reliance: "Shares of the difference between the mean logits of positive and negative images. A negative share works against the others.",
  };

  async function show() {
    problem("");
    const one = sae();
    if (!one) throw new Error(`No SAE ${parts().slice(0, 4).join("/")} is in this atlas.`);
    select(one.address);
    const tables = await load(`${one.address}/${page}.js`, `${page}/${one.address}`);
    get("tables").replaceChildren();
    get("charts").replaceChildren();
    if (window.drawCharts) await window.drawCharts(get("charts"), one, tables);
    for (const [name, heading] of Object.entries(HEADINGS)) {
      if (!(name in tables)) continue;
      get("tables").append(element("h2", heading));
      if (NOTES[name]) get("tables").append(element("p", NOTES[name], { class: "hint" }));
      if (!tables[name]) {
        get("tables").append(element("p", `The run has no table ${words(name)} for ${label(one)}.`, { class: "missing" }));
        continue;
      }
      grid(get("tables"), tables[name], (column, value) => column === "latent" ? `latent.html#${one.address}/${value}` : null);
    }
  }

  run(show);
})();

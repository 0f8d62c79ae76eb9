"use strict";
// Two SAEs side by side. The address names both: encoder, layer, SAE and seed of each.
(function () {
  const { get, element, load, parts, label, problem, words, missing, table, grid, run } = window.Atlas;
  const { points, ticks, legend, node } = window.Charts;
  const { saes, first } = window.ATLAS.run;
  const find = address => saes.find(one => one.address === address);

  // The SAEs of the address; by default the first, and one of the same layer and name.
  function chosen() {
    const given = parts(), a = find(given.length ? given.slice(0, 4).join("/") : first);
    const like = a && (saes.find(one => one !== a && one.layer === a.layer && one.sae === a.sae) || saes.find(one => one !== a) || a);
    const b = given.length > 4 ? find(given.slice(4, 8).join("/")) : like;
    if (!a || !b) throw new Error(`No SAE ${given.join("/")} is in this atlas.`);
    return [a, b];
  }

  async function show() {
    problem("");
    for (const name of ["quality", "charts", "matches"]) get(name).replaceChildren();
    const pair = chosen(), concept = get("concept").value, [a, b] = pair;
    [get("a").value, get("b").value] = pair.map(one => one.address);
    const columns = await Promise.all(pair.map(one => load(`${one.address}/table.js`, `table/${one.address}`)));
    const of = columns.map(({ names, values }) => Object.fromEntries(names.map((name, i) => [name, values[i]])));
    get("quality").append(table({ names: ["SAE", "explained_variance", "PCA_of_equal_size", "active_latents_per_cell", "latents", "dead_share", "verdicts"],
      rows: pair.map(({ quality, ...one }, i) => [`${"AB"[i]}: ${label(one)}`, quality.explained_variance, quality.explained_variance_pca, quality.l0, quality.latents, quality.dead_share, counts(of[i][`${concept}|verdict`] || [])]) }));
    const { matches, compared } = await load(`${a.address}/nearest.js`, `nearest/${a.address}`);
    if (a === b || !compared.includes(b.address)) {
      get("matches").append(element("p", a === b ? "Choose two SAEs." : "The latents of these SAEs can't be matched: their directions lie in different spaces. SAEs of one layer can be, if they are of one encoder, its base, or encoders with the same base.", { class: "missing" }));
      return;
    }
    const value = (i, name, latent) => (of[i][`${concept}|${name}`] || [])[of[i].latent.indexOf(latent)];
    const rows = matches.filter(([, other]) => other === b.address).map(([latent, , match, cosine]) => {
      const [before, after] = [value(0, "auroc", latent), value(1, "auroc", match)];
      return [latent, match, cosine, before, after, missing(before) || missing(after) ? null : after - before, value(0, "verdict", latent), value(1, "verdict", match), value(0, "effect", latent), value(1, "effect", match)];
    });
    chart(rows, a);
    grid(get("matches"), { names: ["latent_of_A", "match_in_B", "cosine", "AUROC_in_A", "AUROC_in_B", "AUROC_difference", "verdict_in_A", "verdict_in_B", "effect_in_A", "effect_in_B"], rows },
      (name, latent) => name === "latent_of_A" ? `latent.html#${a.address}/${latent}` : name === "match_in_B" ? `latent.html#${b.address}/${latent}` : null, "cosine");
  }

  function counts(verdicts) {
    const found = {};
    for (const verdict of verdicts) if (verdict) found[verdict] = (found[verdict] || 0) + 1;
    return Object.entries(found).map(([verdict, count]) => `${count} ${verdict}`).join(", ") || "none tested";
  }

  function chart(rows, a) {
    get("charts").append(element("p", `${rows.length} latents of A that have images, and for each the latent of B with the largest cosine. A latent whose cosines are all 0 or less is left out.`));
    const kept = rows.filter(row => !missing(row[3]) && !missing(row[4]));
    if (!kept.length) return;
    const axis = which => ({ label: `AUROC for ${words(get("concept").value)} in ${which}`, low: 0, high: 1, ticks: ticks(0, 1) });
    const made = points(get("charts"), { name: `AUROC of ${kept.length} matched latents; the table below has the values.`, x: axis("A"), y: axis("B") },
      kept.map(row => [row[3], row[4], `latent ${row[0]} of A, latent ${row[1]} of B, cosine ${row[2].toFixed(2)}`, `latent.html#${a.address}/${row[0]}`, row[2] >= 0.7 ? "#0072b2" : "#e69f00"]));
    made.svg.prepend(node("line", { x1: made.across(0), y1: made.down(0), x2: made.across(1), y2: made.down(1), class: "rule" }));
    legend(get("charts"), [["cosine of 0.7 or more", "#0072b2"], ["cosine below 0.7", "#e69f00"]]);
  }

  for (const name of ["a", "b"]) get(name).onchange = () => { location.hash = `${get("a").value}/${get("b").value}`; };
  get("concept").onchange = () => show().catch(error => problem(error.message));
  run(show);
})();

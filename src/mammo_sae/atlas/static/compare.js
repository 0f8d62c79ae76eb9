"use strict";
// Two SAEs side by side, of one run or of two. The address names both.
(function () {
  const { get, element, load, parts, label, problem, words, shown, missing, table, grid, run } = window.Atlas;
  const { points, ticks, legend, node } = window.Charts;
  const { saes, first } = window.ATLAS.run, others = window.ATLAS.run.others || saes;
  const size = first.split("/").length; // parts of an SAE's address
  const COLOURS = { "in both": "#0072b2", "other verdict": "#d55e00" };

  // The SAEs of the address; by default the first, and the one that is most like it.
  function chosen() {
    const given = parts(), a = saes.find(one => one.address === (given.length ? given.slice(0, size).join("/") : first));
    const rest = others.filter(one => one !== a);
    const like = a && (rest.find(one => one.layer === a.layer && one.sae === a.sae && one.encoder === a.encoder) || rest.find(one => one.layer === a.layer && one.sae === a.sae) || rest[0] || a);
    const b = given.length > size ? others.find(one => one.address === given.slice(size, 2 * size).join("/")) : like;
    if (!a || !b) throw new Error(`No SAE ${given.join("/")} is in this atlas.`);
    return [a, b];
  }

  // The page of a latent: in this folder, or in the atlas of its run.
  function page(one, latent) { return `${one.atlas || ""}latent.html#${one.own || one.address}/${latent}`; }

  async function show() {
    problem("");
    for (const name of ["quality", "said", "charts", "matches"]) get(name).replaceChildren();
    const pair = chosen(), concept = get("concept").value, [a, b] = pair;
    [get("a").value, get("b").value] = pair.map(one => one.address);
    const columns = await Promise.all(pair.map(one => load(`${one.address}/table.js`, `table/${one.address}`)));
    const of = columns.map(({ names, values }) => Object.fromEntries(names.map((name, i) => [name, values[i]])));
    get("quality").append(table({ names: ["SAE", "explained_variance", "PCA_of_equal_size", "active_latents_per_cell", "latents", "dead_share", "verdicts"],
      rows: pair.map(({ quality, ...one }, i) => [`${"AB"[i]}: ${label(one)}`, quality.explained_variance, quality.explained_variance_pca, quality.l0, quality.latents, quality.dead_share, counts(of[i][`${concept}|verdict`] || [])]) }));
    const [there, back] = await Promise.all(pair.map(one => load(`${one.address}/nearest.js`, `nearest/${one.address}`)));
    const found = there[b.address], reverse = back[a.address];
    if (a === b || !found) {
      const swapped = a !== b && reverse, line = element("p", a === b ? "Choose two SAEs." : swapped ? "Only the latents of B are matched with those of A. " : unmatched(), { class: "missing" });
      if (swapped) line.append(element("a", "Exchange A and B", { href: `#${b.address}/${a.address}` }));
      get("matches").append(line);
      return;
    }
    const value = (i, name, latent) => (of[i][`${concept}|${name}`] || [])[of[i].latent.indexOf(latent)];
    const line = (change, latent, match, measure) => {
      const [before, after] = [value(0, "auroc", latent), value(1, "auroc", match)];
      return [change, latent, match, measure, before, after, missing(before) || missing(after) ? null : after - before, value(0, "verdict", latent), value(1, "verdict", match), value(0, "effect", latent), value(1, "effect", match)];
    };
    const [ofA, ofB] = of.map(one => one.latent.filter((_, place) => one.images[place]));
    const rows = ofA.map(latent => {
      const [, match = null, measure = null, matched = false] = found.rows.find(row => row[0] === latent) || [];
      const verdicts = [value(0, "verdict", latent), value(1, "verdict", match)];
      const moved = !verdicts.some(missing) && verdicts[0] !== verdicts[1];
      return line(!matched ? "only in A" : moved ? "other verdict" : "in both", latent, match, measure);
    });
    for (const latent of reverse ? ofB : []) {
      const [, match = null, measure = null, matched = false] = reverse.rows.find(row => row[0] === latent) || [];
      if (!matched) rows.push(line("only in B", match, latent, measure));
    }
    said(found, rows, ofB.length, Boolean(reverse));
    const wanted = get("change").value, kept = wanted === "all" ? rows : rows.filter(row => row[0] === wanted);
    chart(kept.filter(row => row[0] in COLOURS), a, found.measure);
    grid(get("matches"), { names: ["change", "latent_of_A", "latent_of_B", found.measure, "AUROC_in_A", "AUROC_in_B", "AUROC_difference", "verdict_in_A", "verdict_in_B", "effect_in_A", "effect_in_B"], rows: kept },
      (name, latent) => missing(latent) ? null : name === "latent_of_A" ? page(a, latent) : name === "latent_of_B" ? page(b, latent) : null, found.measure);
  }

  function unmatched() {
    if (window.ATLAS.run.others) return "These SAEs are of different layers, so their latents are not matched.";
    return "The latents of these SAEs can't be matched. SAEs of one layer can be, if they are of one encoder, its base, or encoders with the same base, or if the table activation_matches has this pair.";
  }

  // What is new and what moved, in sentences.
  function said(found, rows, ofB, reversed) {
    const count = change => rows.filter(row => row[0] === change).length, matched = count("in both") + count("other verdict");
    const least = found.measure === "cosine" ? `a cosine of at least ${shown(found.least)}` : `a correlation above ${shown(found.least)}, which 95 % of chance matches do not reach`;
    get("said").textContent = [
      `${matched} of the ${matched + count("only in A")} latents of A with images have a match in B: ${least}.`,
      `${count("other verdict")} of these have another verdict in B.`,
      reversed ? `${count("only in B")} of the ${ofB} latents of B with images have no match in A.` : "Latents of B were not matched with those of A.",
      "A latent without a match stands beside the most similar latent of the other SAE.",
    ].join(" ");
  }

  function counts(verdicts) {
    const found = {};
    for (const verdict of verdicts) if (verdict) found[verdict] = (found[verdict] || 0) + 1;
    return Object.entries(found).map(([verdict, count]) => `${count} ${verdict}`).join(", ") || "none tested";
  }

  // AUROC in A and in B of matched latents.
  function chart(rows, a, measure) {
    const kept = rows.filter(row => !missing(row[4]) && !missing(row[5]));
    if (!kept.length) return;
    const axis = which => ({ label: `AUROC for ${words(get("concept").value)} in ${which}`, low: 0, high: 1, ticks: ticks(0, 1) });
    const made = points(get("charts"), { name: `AUROC of ${kept.length} matched latents; the table below has the values.`, x: axis("A"), y: axis("B") },
      kept.map(row => [row[4], row[5], `latent ${row[1]} of A, latent ${row[2]} of B, ${measure} ${row[3].toFixed(2)}`, page(a, row[1]), COLOURS[row[0]]]));
    made.svg.prepend(node("line", { x1: made.across(0), y1: made.down(0), x2: made.across(1), y2: made.down(1), class: "rule" }));
    legend(get("charts"), Object.entries(COLOURS));
  }

  for (const name of ["a", "b"]) get(name).onchange = () => { location.hash = `${get("a").value}/${get("b").value}`; };
  const again = run(show);
  for (const name of ["concept", "change"]) get(name).onchange = again;
})();

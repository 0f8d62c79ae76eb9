"use strict";
// The chart of the intervention page: a score against the number of latents removed or kept.
window.drawCharts = async function (parent, one, tables) {
  const { element, words, missing, choice } = window.Atlas;
  const { lines, ticks, legend } = window.Charts;
  // Selection and mode -> words, colour and dash of the line.
  const LINES = [
    ["ranked", "off", "first k removed", "#d55e00", ""], ["matched", "off", "k of equal firing rate removed", "#d55e00", "7 4"], ["random", "off", "k at random removed", "#d55e00", "2 3"],
    ["ranked", "on", "first k kept alone", "#0072b2", ""], ["matched", "on", "k of equal firing rate kept alone", "#0072b2", "7 4"], ["random", "on", "k at random kept alone", "#0072b2", "2 3"],
  ];
  if (!tables.interventions) return;
  const { names, rows } = tables.interventions;
  const all = rows.map(row => Object.fromEntries(names.map((name, i) => [name, row[i]])));
  const values = name => [...new Set(all.map(row => row[name]))];
  const line = element("p", null, { class: "controls" }), out = element("div");
  const options = name => values(name).map(value => [value, words(value)]);
  const concept = choice(line, "Concept", options("concept"), draw), split = choice(line, "Split", options("split"), draw);
  const ranking = choice(line, "Ranking of the latents", options("ranking").filter(([value]) => value !== "random"), draw);
  const splice = choice(line, "Error of the SAE", options("splice").map(([value]) => [value, value === "spliced" ? "left out" : "kept"]), draw);
  const measure = choice(line, "Score", [["auroc", "AUROC"], ["auprc", "AUPRC"], ["f1", "F1"]].filter(([name]) => names.includes(name)), draw);
  if (values("split").includes(window.ATLAS.run.split)) split.value = window.ATLAS.run.split;
  parent.append(element("h2", "The score when latents are removed or kept alone"), line, out);
  draw();

  function draw() {
    const mine = all.filter(row => row.concept === concept.value && row.split === split.value && row.splice === splice.value && !missing(row[measure.value]));
    const ks = [...new Set(mine.map(row => row.k))].sort((a, b) => a - b), series = [];
    for (const [selection, mode, name, colour, dash] of LINES) {
      const found = mine.filter(row => row.selection === selection && row.mode === mode && (selection === "random" || row.ranking === ranking.value)).sort((a, b) => a.k - b.k);
      if (found.length) series.push({ name, colour, dash, points: found.map(row => [ks.indexOf(row.k), row[measure.value], row[`${measure.value}_low`], row[`${measure.value}_high`]]) });
    }
    out.replaceChildren();
    if (!series.length) { out.append(element("p", "The run has no such score. The table below gives the reasons.", { class: "missing" })); return; }
    const heights = series.flatMap(one => one.points.flatMap(([, value, low, high]) => [value, low, high])).filter(value => !missing(value));
    const low = Math.min(...heights, 0.5), high = Math.max(...heights), every = Math.ceil(ks.length / 14);
    lines(out, { name: `${measure.value.toUpperCase()} against the number of latents; the table below has the values.`, x: { label: "number k of latents (steps are not to scale)", low: 0, high: Math.max(1, ks.length - 1), ticks: ks.map((k, i) => [i, String(k)]).filter((_, i) => i % every === 0) }, y: { label: measure.value.toUpperCase(), low, high, ticks: ticks(low, high) } }, series);
    legend(out, series.map(({ name, colour, dash }) => [name, colour, dash]));
    out.append(element("p", "Bands are intervals of 95 %. If the lines of the first k latents lie within those of the controls, the ranking found no latents that matter more than others.", { class: "hint" }));
  }
};

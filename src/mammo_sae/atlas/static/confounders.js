"use strict";
// Charts of the confounder page: a matrix of latents and confounders, and crude against stratified AUROC.
window.drawCharts = async function (parent, one, tables) {
  const { element, load, words, shown, missing, choice } = window.Atlas;
  const { points, ticks, legend, node } = window.Charts;
  const { verdicts: colours } = window.ATLAS.run;
  const LATENTS = 20;
  if (!tables.confounds) return;
  const { names, rows } = tables.confounds;
  const all = rows.map(row => Object.fromEntries(names.map((name, i) => [name, row[i]])));
  const columns = await load(`${one.address}/table.js`, `table/${one.address}`);
  const places = columns.values[0], column = (concept, name) => columns.values[columns.names.indexOf(`${concept}|${name}`)] || [];
  const concepts = [...new Set(all.map(row => row.concept))], confounders = [...new Set(all.map(row => row.confounder))];
  const line = element("p", null, { class: "controls" }), out = element("div");
  const concept = choice(line, "Concept", concepts.map(name => [name, words(name)]), draw);
  const confounder = choice(line, "Confounder in the scatter", [["", "all"], ...confounders.map(name => [name, words(name)])], draw);
  parent.append(line, out);
  draw();

  function draw() {
    const mine = all.filter(row => row.concept === concept.value), ranks = column(concept.value, "rank_auroc"), aurocs = column(concept.value, "auroc");
    const of = (values, latent) => values[places.indexOf(latent)], order = latent => missing(of(ranks, latent)) ? Infinity : of(ranks, latent);
    const latents = [...new Set(mine.map(row => row.latent))].sort((a, b) => order(a) - order(b) || a - b).slice(0, LATENTS);
    out.replaceChildren(element("h2", "Which confounder explains which latent"),
      element("p", `The ${latents.length} tested latents of best rank for ${words(concept.value)}. A cell has the latent's AUROC for ${words(concept.value)} among images alike in the confounder, and the verdict unless it is concept-aligned (green): the confounder does not explain the association. The first column has the AUROC among all images.`));
    const table = element("table", null, { class: "matrix" }), head = table.createTHead().insertRow(), body = table.createTBody();
    for (const text of ["Latent", "All images", ...confounders.map(words)]) head.append(element("th", text, { scope: "col" }));
    for (const latent of latents) {
      const tests = mine.filter(row => row.latent === latent), line = body.insertRow(), name = element("th", null, { scope: "row" });
      name.append(element("a", `latent ${latent}`, { href: `latent.html#${one.address}/${latent}` }));
      line.append(name, element("td", shown(of(aurocs, latent))));
      for (const which of confounders) {
        const test = tests.find(row => row.confounder === which), cell = element("td");
        if (!test) cell.append(element("span", "not tested", { class: "missing" }));
        else cell.append(element("span", null, { class: "dot", style: `background: ${colours[test.verdict] || "transparent"}` }), `${missing(test.stratified_auroc) ? "" : shown(test.stratified_auroc)}${test.verdict === "concept-aligned" ? "" : ` ${test.verdict}`}`);
        line.append(cell);
      }
    }
    const scroll = element("div", null, { class: "scroll", tabindex: "0" });
    scroll.append(table);
    const kept = mine.filter(row => (!confounder.value || row.confounder === confounder.value) && !missing(row.crude_auroc) && !missing(row.stratified_auroc));
    out.append(scroll, element("h2", "AUROC before and after the confounder is held constant"));
    if (!kept.length) { out.append(element("p", "No latent has both values.", { class: "missing" })); return; }
    out.append(element("p", "Each point is a latent and a confounder. A point on the line keeps its AUROC when only images alike in the confounder are compared. A point near 0.5 on the vertical axis loses it."));
    const values = kept.flatMap(row => [row.crude_auroc, row.stratified_auroc]), low = Math.min(0.4, ...values), high = Math.max(...values);
    const marks = ticks(low, high), axes = { name: `Crude and stratified AUROC of ${kept.length} tests; the table below has the values.`, x: { label: "AUROC among all images with a known confounder", low, high, ticks: marks }, y: { label: "AUROC among images alike", low, high, ticks: marks } };
    const chart = points(out, axes, kept.map(row => [row.crude_auroc, row.stratified_auroc, `latent ${row.latent}, ${words(row.confounder)}: ${row.verdict}`, `latent.html#${one.address}/${row.latent}`, colours[row.verdict] || "currentColor"]));
    chart.svg.prepend(node("line", { x1: chart.across(low), y1: chart.down(low), x2: chart.across(high), y2: chart.down(high), class: "rule" }));
    legend(out, [...new Set(kept.map(row => row.verdict))].map(verdict => [verdict, colours[verdict] || "currentColor"]));
  }
};

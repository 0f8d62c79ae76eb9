"use strict";
(function () {
  const { get, element, load, parts, sae, label, problem, table, grid, chooseSae, run } = window.Atlas;
  const SHOWN = ["rank_auroc", "auroc", "auroc_low", "auroc_high", "q", "verdict", "confounders", "where", "energy_lift", "pointing", "effect", "share"];
  const select = chooseSae(address => address);
  let points = [];

  async function show() {
    problem("");
    const one = sae();
    if (!one) throw new Error(`No SAE ${parts().slice(0, 4).join("/")} is in this atlas.`);
    select(one.address);
    get("title").textContent = `Latents: ${label(one)}`;
    const columns = await load(`${one.address}/table.js`, `table/${one.address}`);
    const concept = get("concept").value;
    const column = Object.fromEntries(columns.names.map((name, i) => [name, columns.values[i]]));
    const kept = SHOWN.filter(name => column[`${concept}|${name}`]);
    const verdicts = [...new Set((column[`${concept}|verdict`] || []).filter(Boolean))].sort();
    const wanted = get("verdict").value;
    get("verdict").replaceChildren(element("option", "all", { value: "" }), ...verdicts.map(name => element("option", name, { value: name })));
    get("verdict").value = verdicts.includes(wanted) ? wanted : "";
    const rows = [];
    column.latent.forEach((latent, i) => {
      if (get("alive").checked && !(column.firing_rate[i] > 0)) return;
      if (get("pictured").checked && !column.images[i]) return;
      if (get("verdict").value && column[`${concept}|verdict`][i] !== get("verdict").value) return;
      rows.push([latent, column.name ? column.name[i] : null, column.firing_rate[i], ...kept.map(name => column[`${concept}|${name}`][i])]);
    });
    get("table").replaceChildren();
    const content = { names: ["latent", "name", "firing_rate", ...kept], rows };
    const shown = grid(get("table"), content, (name, value) => name === "latent" ? `latent.html#${one.address}/${value}` : null, "rank_auroc");
    const auroc = 3 + kept.indexOf("auroc");
    const draw = () => scatter(one, shown.rows({ search: "applied" }).data().toArray(), auroc);
    shown.on("draw", draw);
    draw();
    await quality(one, concept);
  }

  // All SAEs of the run, encoders and layers side by side, and the results of this one beside its controls.
  async function quality(one, concept) {
    const rows = window.ATLAS.run.saes.map(other => {
      const of = other.quality;
      return [other.address, other === one ? "this page" : other.control ? "control" : "trained", of.explained_variance, of.explained_variance_pca, of.explained_variance_channels, of.l0, of.latents, of.dead_share, ...of.lost[concept]];
    });
    get("quality").replaceChildren(table({ names: ["SAE", "kind", "explained_variance", "PCA", "channels", "active_latents_per_cell", "latents", "share_of_dead_latents", "AUROC_lost", "AUROC_lost_low", "AUROC_lost_high"], rows },
      (name, value) => name === "SAE" ? `layer.html#${value}` : null));
    const { names, rows: all } = await load(`${one.address}/controls.js`, `controls/${one.address}`);
    const own = all.filter(row => row[0] === concept).map(row => row.slice(1));
    get("beside").hidden = !own.length;
    get("controls").replaceChildren(own.length ? table({ names: names.slice(1), rows: own }) : "");
  }

  // Firing rate (log) against AUROC of the rows in the table.
  function scatter(one, rows, auroc) {
    const canvas = get("scatter"), pen = canvas.getContext("2d");
    canvas.width = Math.min(720, get("table").clientWidth); // letters keep their size in a narrow window
    const { width, height } = canvas;
    const style = getComputedStyle(document.body), left = 44, bottom = height - 30;
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = style.color;
    pen.font = "12px system-ui, sans-serif";
    pen.fillText("AUROC", 2, height / 4);
    pen.fillText("firing rate (log)", width - 110, height - 4);
    const x = rate => left + (width - left - 10) * (1 + Math.max(-5, Math.log10(rate)) / 5);
    const y = value => bottom - (bottom - 10) * value;
    for (const value of [0, 0.5, 1]) { pen.fillText(value, 18, y(value) + 4); pen.fillRect(left, y(value), width - left, 0.5); }
    for (const power of [-5, -4, -3, -2, -1, 0]) pen.fillText(`10^${power}`, x(10 ** power) - (power === 0 ? 28 : 8), bottom + 14);
    points = rows.filter(row => row[2] > 0 && typeof row[auroc] === "number").map(row => [x(row[2]), y(row[auroc]), row[0]]);
    pen.globalAlpha = 0.5;
    for (const [across, down] of points) pen.fillRect(across - 1.5, down - 1.5, 3, 3);
    pen.globalAlpha = 1;
    canvas.onclick = event => {
      const box = canvas.getBoundingClientRect(), across = (event.clientX - box.left) * width / box.width, down = (event.clientY - box.top) * height / box.height;
      const near = points.map(point => [Math.hypot(point[0] - across, point[1] - down), point[2]]).sort((a, b) => a[0] - b[0])[0];
      if (near && near[0] < 12) location.href = `latent.html#${one.address}/${near[1]}`;
    };
  }

  const again = run(show);
  for (const name of ["concept", "verdict", "alive", "pictured"]) get(name).addEventListener("change", again);
})();

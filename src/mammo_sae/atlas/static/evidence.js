"use strict";
(function () {
  const { get, element, load, parts, sae, problem, words, shown, chooseSae, run } = window.Atlas;
  const page = document.body.dataset.page;
  const select = chooseSae(address => address);

  async function show() {
    problem("");
    const one = sae();
    if (!one) throw new Error(`No SAE ${parts().slice(0, 4).join("/")} is in this atlas.`);
    select(one.address);
    const tables = await load(`${one.address}/${page}.js`, `${page}/${one.address}`);
    get("tables").replaceChildren();
    for (const [name, content] of Object.entries(tables)) {
      get("tables").append(element("h2", words(name)));
      if (!content) { get("tables").append(element("p", `The run has no table ${words(name)} for this SAE.`, { class: "missing" })); continue; }
      const made = element("table", null, { class: "display compact" }), scroll = element("div", null, { class: "scroll" });
      scroll.append(made);
      get("tables").append(scroll);
      new window.DataTable(made, {
        data: content.rows, deferRender: true, pageLength: 25, autoWidth: false, order: [],
        columns: content.names.map(column => ({
          title: words(column),
          render: (value, kind) => kind !== "display" ? value ?? "" : column === "latent" && page === "confounders"
            ? element("a", value, { href: `latent.html#${one.address}/${value}` }).outerHTML : element("span", shown(value)).innerHTML,
        })),
      });
    }
  }

  run(show);
})();

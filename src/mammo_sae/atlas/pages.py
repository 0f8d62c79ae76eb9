"""The pages of the atlas: jinja2 templates, one style sheet and small scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mammo_sae.atlas.assets import PACKAGE, assets
from mammo_sae.atlas.libraries import datatables
from mammo_sae.report import style

# Page -> its title.
PAGES = {
    "index": "What the network has learnt",
    "layer": "Latents of a layer",
    "latent": "A latent",
    "image": "An image",
    "compare": "Two SAEs compared",
    "confounders": "Confounders",
    "interventions": "Interventions",
    "truth": "Known truth of the phantom",
}


# The page that `compare` writes. An atlas does not have it.
RUNS = {"runs": "Two runs compared"}


def environment() -> Environment:
    """Return the environment of the templates. All text is escaped; an unknown name is an error."""
    found = Environment(
        loader=PackageLoader(PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["words"] = style.words
    return found


def write_page(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write the page `name` and return its path."""
    template = environment().get_template(f"{name}.html")
    path = folder / f"{name}.html"
    path.write_text(
        template.render(page=name, title=(PAGES | RUNS)[name], pages=PAGES, **content),
        encoding="utf-8",
    )
    return path


def write_static(folder: Path) -> None:
    """Copy the style sheet, the scripts and DataTables into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in assets("static"):
        (folder / file.name).write_bytes(file.read_bytes())
    script, sheet = datatables()
    (folder / "datatables.js").write_text(script, encoding="utf-8")
    (folder / "datatables.css").write_text(sheet, encoding="utf-8")

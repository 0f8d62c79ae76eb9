"""Pages of the documentation site that are made when it is built (mkdocs.yml).

Some pages repeat files that lie outside docs/: the home page is README.md (see `COPIES`). The
references of the configuration and of the command line are made from the models and the signatures.
A link from a page to another file of the project leads to a copy of this file on the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mammo_sae.arguments import Function, read_functions
from mammo_sae.cli import PEOPLE, PROGRAM
from mammo_sae.config import Config
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).resolve().parents[1]
COPIES = {
    "index.md": "README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "writing_a_configuration.md": "config/README.md",
}
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    made = {page: (PROJECT / source).read_text() for page, source in COPIES.items()}
    made |= {"configuration.md": configuration_page(), "commands.md": commands_page()}
    made |= {"benchmarks.md": benchmarks_page()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to their place on the site, and copy the files there."""
    folder = posixpath.dirname(source_of(page.file.src_uri))

    def led(match: re.Match[str]) -> str:
        source = posixpath.normpath(posixpath.join(folder, match[2]))
        if not (PROJECT / source).is_file():
            return match[0]
        place = place_of(source)
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(PROJECT / source)))
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{match[1]}{posixpath.relpath(place, start)}{match[3]}"

    return LINK.sub(led, markdown)


def source_of(page: str) -> str:
    """Return the project's file that a page shows."""
    return COPIES.get(page, f"docs/{page}")


def place_of(source: str) -> str:
    """Return the place of a file of the project on the site."""
    pages = {shown: page for page, shown in COPIES.items()}
    return pages.get(source, source.removeprefix("docs/"))


def configuration_page() -> str:
    """Return the reference of the configuration, made from the models of the settings."""
    schema = Config.model_json_schema()
    models = schema["$defs"]
    text = [
        "# Configuration reference",
        "Every key with its values, its default and its meaning. *required* marks a key without a "
        "default. [Writing a configuration](writing_a_configuration.md) explains how files are "
        "combined.",
        *_model("The file", schema),
    ]
    for name in _order(schema, models):
        text += _model(name, models[name])
    return "\n\n".join(text) + "\n"


def _order(schema: dict[str, Any], models: dict[str, Any]) -> list[str]:
    """Return the names of the models in the order in which the keys of the file lead to them."""
    order: list[str] = []

    def visit(part: dict[str, Any]) -> None:
        for name in re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(part["properties"])):
            if name not in order:
                order.append(name)
                visit(models[name])

    visit(schema)
    return order


def _model(name: str, model: dict[str, Any]) -> list[str]:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in model["properties"].items():
        default = "*required*" if key in model.get("required", ()) else _default(field)
        if "const" in field:
            default = ""
        rows.append(
            f"| `{key}` | {_values(field)} | {default} | {_cell(field.get('description', ''))} |"
        )
    about = "" if name == "The file" else str(model.get("description", "")).partition("\n\n")[0]
    return [f"## {name}", *([about.replace("\n", " ")] if about else []), "\n".join(rows)]


def _cell(text: str) -> str:
    """Return a text as a cell of a table. Outside of code, it has no signs of HTML or emphasis."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"([*_|])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "see the model" if "$ref" in json.dumps(field) else ""
    text = json.dumps(field["default"], ensure_ascii=False)
    return "see the model" if len(text) > 60 else f"`{text}`"


def _values(field: dict[str, Any]) -> str:
    """Return what a key accepts, in words."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    choices = field.get("oneOf") or field.get("anyOf")
    if choices:
        return " or ".join(_values(choice) for choice in choices)
    if field.get("type") == "array":
        items = field.get("items") or {}
        return f"list of: {_values(items)}" if items else "list"
    if field.get("type") == "object":
        of = [*field.get("patternProperties", {}).values(), field.get("additionalProperties")]
        inner = next((one for one in of if isinstance(one, dict)), None)
        return f"name: {_values(inner)}" if inner else "mapping"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false"}
    kind = words.get(field.get("type", ""), field.get("type", "any"))
    return " ".join([kind, *_bounds(field)])


def _bounds(field: dict[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for key, sign in signs.items():
        if key in field:
            yield f"{sign} {field[key]:g}"


def benchmarks_page() -> str:
    """Return the figures of benchmarks/bench.json as tables, one per part."""
    content = json.loads((PROJECT / "benchmarks" / "bench.json").read_text())
    machine = "; ".join(f"{name} {value}" for name, value in content["machine"].items())
    text = [
        "# Benchmarks",
        "`make bench` measures these figures in one run and writes `benchmarks/bench.json`. The "
        "parts conversion, extraction, training, together, stores and codes measure both sides of "
        "a ratio in turns. On another machine, ratios and times may differ.",
        f"Measured on: {machine}.",
        "No GPU has been measured. [Time, memory and disk](scale.md) has the steps at the paper's "
        "size.",
    ]
    for part in dict.fromkeys(row["part"] for row in content["figures"]):
        rows = ["| what | figure | compared with |", "|---|---|---|"]
        rows += [
            f"| {_cell(row['what'])} | {row['value']:g} | {_cell(row['beside'])} |"
            for row in content["figures"]
            if row["part"] == part
        ]
        text += [f"## {part.capitalize()}", "\n".join(rows)]
    return "\n\n".join(text) + "\n"


def commands_page() -> str:
    """Return the reference of the command line, made from the signatures of its verbs."""
    text = [
        "# Command line reference",
        f"A verb is called as `.venv/bin/{PROGRAM} VERB`. Its `--help` prints what is said here.",
        "## For people",
    ]
    for name, function in read_functions(PEOPLE).items():
        text += _verb(name, function, places=True)
    text += ["## Steps of the workflow", "Snakemake calls these verbs. They also run alone."]
    for name, step in STEPS.items():
        text += _verb(name, read_functions(step.module)["run"], places=False)
    return "\n\n".join(text) + "\n"


def _verb(name: str, function: Function, *, places: bool) -> list[str]:
    """Return the section of a verb. `places` has the meaning that it has for `parser_of`."""
    text = [f"### {name.replace('_', '-')}", function.text]
    rows = ["| argument | required | meaning |", "|---|---|---|"]
    for one in function.arguments:
        by_place = places and one.positional
        option = one.name if by_place else f"--{one.name.replace('_', '-')}"
        rows.append(f"| `{option}` | {'yes' if one.required else ''} | {_cell(one.help)} |")
    return [*text, "\n".join(rows)] if len(rows) > 2 else text

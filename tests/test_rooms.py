"""The order of the package's rooms: no import runs from a lower room to a higher one.

docs/architecture.md contains a drawing of the rooms and their imports. After a change, update it
with `.venv/bin/python tests/test_rooms.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from mammo_sae.digests import PACKAGE, SOURCE

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN = "<!-- Written by tests/test_rooms.py: the rooms. -->"
END = "<!-- End of the rooms. -->"


@dataclass(frozen=True)
class Room:
    """Folders and modules of the package that are on one level.

    Attributes
    ----------
    name
        Name of the room.
    parts
        Names of its folders and modules, directly below the package.
    purpose
        The purpose of the room.
    """

    name: str
    parts: tuple[str, ...]
    purpose: str


# From low to high. A room imports from itself and from the rooms above it in this list.
ROOMS = (
    Room(
        "ground",
        (
            "blockwise",
            "complaints",
            "digests",
            "errors",
            "extensions",
            "grids",
            "ordered",
            "progress",
            "proportions",
            "provenance",
            "settings",
            "statistics",
            "temporary",
            "yaml_files",
        ),
        "what every room may use",
    ),
    Room("regression", ("regression",), "penalised regressions over features that come in blocks"),
    Room("stores", ("records", "stores"), "Zarr stores, tables, manifests, records of results"),
    Room("compute", ("compute",), "devices, number types and checkpoints of training"),
    Room("weights", ("weights",), "files of weights, read without running code from them"),
    Room("dicom", ("dicom",), "one image file: header, pixels, canonical image, geometry"),
    Room("phantom", ("phantom",), "a simulated archive with known ground truth"),
    Room("cohorts", ("cohorts",), "a reader per dataset; tables of images and findings"),
    Room(
        "images",
        ("images",),
        "a cohort's files, converted into stores of canonical images, and measured",
    ),
    Room("encoders", ("encoders",), "networks: weights, heads, fine-tuning, extraction"),
    Room("texts", ("texts",), "phrases and their embeddings by text encoders"),
    Room("sae", ("sae",), "SAE variants, their training, codes"),
    Room(
        "analysis",
        ("analysis",),
        "quality, latents, probes, interventions, alignment, confounds",
    ),
    Room("report", ("report",), "tables, figures, pages"),
    Room("atlas", ("atlas",), "pages of all latents and images, opened from a folder"),
    Room(
        "workflow",
        (
            *("config", "demo", "display", "doctor", "interpreter", "passes", "plan"),
            *("resources", "runner", "slurm", "stale", "steps", "watched"),
        ),
        "what the rules ask: configuration, steps, passes, staleness, resources; starts of runs",
    ),
    Room("own data", ("own_data",), "from a person's folder to tables and a configuration"),
    Room("library", ("library",), "the Python API: a finished run as an object"),
    Room("command line", ("__main__", "again", "arguments", "cli", "people"), "a verb per step"),
)
LEVEL = {part: level for level, room in enumerate(ROOMS) for part in room.parts}


def modules(source: Path) -> dict[str, Path]:
    """Return module -> file for the package in the folder `source`, without the package's name."""
    paths = {path.relative_to(source).with_suffix(""): path for path in source.rglob("*.py")}
    names = {".".join(p for p in key.parts if p != "__init__"): key for key in paths}
    return {name: paths[key] for name, key in sorted(names.items()) if name}


def imports(module: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that a module names: in imports of any kind, or in a string."""
    here = f"{PACKAGE}.{module}".split(".")
    package = here if file.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            # A name may be a module, or be defined in one.
            names = [n if n.removeprefix(f"{PACKAGE}.") in known else base for n in names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # The name of a package is also that of a group of entry points.
            file_of = known.get(node.value.removeprefix(f"{PACKAGE}."))
            names = [node.value] if file_of and file_of.name != "__init__.py" else []
        for name in names:
            target = name.removeprefix(f"{PACKAGE}.")
            if target != name and target in known:
                yield target


def edges(source: Path) -> list[tuple[str, str]]:
    """Return all pairs (module, module that it imports)."""
    known = modules(source)
    return [(m, target) for m, file in known.items() for target in imports(m, file, known)]


def upward(source: Path) -> list[str]:
    """Return the imports from a lower room to a higher one, each as `module -> module`."""

    def level(module: str) -> int:
        return LEVEL[module.split(".")[0]]

    return [f"{a} -> {b}" for a, b in edges(source) if level(a) < level(b)]


def test_every_module_is_in_one_room():
    parts = [part for room in ROOMS for part in room.parts]
    assert len(set(parts)) == len(parts)
    assert {name.split(".")[0] for name in modules(SOURCE)} == set(parts)


def test_no_import_runs_from_a_lower_room_to_a_higher_one():
    assert upward(SOURCE) == []


def test_no_module_imports_itself_through_others():
    importers = TopologicalSorter[str]()
    for module, target in edges(SOURCE):
        importers.add(module, target)
    importers.prepare()  # raises CycleError, which names the modules of a circle


@pytest.mark.parametrize(
    "line",
    [
        "from mammo_sae.sae import model",
        "from mammo_sae.sae.model import SparseAutoencoder",
        "import mammo_sae.sae.model as above",
        "from ..sae.model import SparseAutoencoder",
        "def late():\n    from mammo_sae.sae import model",
        "if TYPE_CHECKING:\n    from mammo_sae.sae import model",
        "late = import_module('mammo_sae.sae.model')",
    ],
)
def test_an_import_that_runs_upward_is_found(line, tmp_path):
    for room, name, text in (("stores", "tables", line), ("sae", "model", "")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
        (tmp_path / room / f"{name}.py").write_text(text)
    assert upward(tmp_path) == ["stores.tables -> sae.model"]


def test_an_import_of_a_lower_room_is_allowed(tmp_path):
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "tables.py").write_text("from mammo_sae.errors import InputError")
    (tmp_path / "errors.py").touch()
    assert edges(tmp_path) == [("stores.tables", "errors")]
    assert upward(tmp_path) == []


def room_imports() -> dict[str, set[str]]:
    """Return room -> the other rooms that it imports."""
    name = {part: room.name for room in ROOMS for part in room.parts}
    found: dict[str, set[str]] = {room.name: set() for room in ROOMS}
    for module, target in edges(SOURCE):
        found[name[module.split(".")[0]]].add(name[target.split(".")[0]])
    return {room: others - {room} for room, others in found.items()}


def drawing() -> str:
    """Return the drawing of the rooms, which follows from the list and from the imports."""
    used = room_imports()
    below: dict[str, set[str]] = {}  # every room that can be reached
    for room in ROOMS:
        direct = used[room.name]
        below[room.name] = direct.union(*(below[other] for other in direct))
    lines = ["```mermaid", "graph TD"]
    for room in reversed(ROOMS):
        direct = used[room.name]
        indirect = set().union(*(below[other] for other in direct))
        here = room.name.replace(" ", "_")
        lines += [f"    {here}[{room.name}]"]
        lines += [f"    {here} --> {r.name}" for r in ROOMS if r.name in direct - indirect]
    lines += ["```", "", "| room | holds | for | imports |", "|---|---|---|---|"]
    for room in reversed(ROOMS):
        holds = ", ".join(
            f"`{part}/`" if (SOURCE / part).is_dir() else f"`{part}.py`" for part in room.parts
        )
        others = ", ".join(r.name for r in ROOMS if r.name in used[room.name])
        lines.append(f"| {room.name} | {holds} | {room.purpose} | {others or 'none'} |")
    lines += ["", "| module | what it is |", "|---|---|"]
    for room in reversed(ROOMS):
        alone = [part for part in room.parts if (SOURCE / f"{part}.py").is_file()]
        lines += [f"| `{part}` | {summary(part)} |" for part in alone]
    return "\n".join([BEGIN, "", *lines, "", END])


def summary(module: str) -> str:
    """Return the first line of a module's docstring, or a dash."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "-").splitlines()[0]


def test_the_page_shows_the_rooms_as_they_are():
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == drawing()


def write_drawing() -> None:
    """Write the drawing into the page. The text around it is kept."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    PAGE.write_text(before + drawing() + after, encoding="utf-8")


if __name__ == "__main__":
    write_drawing()

"""The table of docs/modules.md: which steps rerun when a module changes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mammo_sae.digests import PACKAGE, SOURCE, import_closure
from mammo_sae.steps import STEPS

TABLE = Path(__file__).parents[1] / "docs" / "modules.md"


def documented() -> dict[str, str]:
    """Return module -> steps from the table."""
    rows = [line.split("|")[1:3] for line in TABLE.read_text().splitlines() if "| `" in line]
    return {module.strip(" `"): steps.strip() for module, steps in rows}


def modules() -> list[str]:
    """Return the names of all modules of the package, without the name of the package itself."""
    paths = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py"))
    names = (".".join(part for part in path.parts if part != "__init__") for path in paths)
    return sorted(name for name in names if name)


def steps_of(module: str) -> str:
    """Return the steps whose import closure contains `module`, in the notation of the table."""
    full = f"{PACKAGE}.{module}"
    steps = {name for name, step in STEPS.items() if full in import_closure(*step.all_modules())}
    others = sorted(STEPS.keys() - steps)
    if not others:
        return "all"
    if len(others) < 8:
        return f"all but {', '.join(others)}"
    return ", ".join(sorted(steps)) or "none"


@pytest.mark.parametrize("module", modules())
def test_a_module_reruns_exactly_the_steps_that_the_table_says(module):
    assert documented().get(module) == steps_of(module)


def test_the_table_has_no_module_that_is_gone():
    assert documented().keys() == set(modules())


def test_no_function_has_more_than_80_lines_without_its_docstring():
    long = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                described = ast.get_docstring(node) is not None
                start = node.body[0].end_lineno if described else node.lineno
                if node.end_lineno - start > 80:
                    long.append(f"{path.name}: {node.name}")
    assert long == []


# A step named as its room has a module named for what it does.
NAMED_AS_ITS_ROOM = {
    "phantom": "phantom.archive",
    "cohort": "cohorts.build",
    "images": "images.convert",
    "atlas": "atlas.build",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_module_has_the_name_of_its_step(step):
    module = STEPS[step].module.removeprefix(f"{PACKAGE}.")
    if step in NAMED_AS_ITS_ROOM:
        assert module == NAMED_AS_ITS_ROOM[step]
    else:
        room, _, name = module.partition(".")
        assert step == (f"figure_{name}" if step.startswith("figure_") else name)
        assert step.startswith("figure_") <= (room == "report")


def write_table() -> None:
    """Write the correct table. The text above it is kept."""
    above = [line for line in TABLE.read_text().splitlines() if not line.startswith("| `")]
    rows = [f"| `{module}` | {steps_of(module)} |" for module in modules()]
    TABLE.write_text("\n".join([*above, *rows]) + "\n")


if __name__ == "__main__":
    write_table()

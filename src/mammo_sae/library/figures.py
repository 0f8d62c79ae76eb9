"""The figures of a finished run, drawn again as SVG or PDF for a paper.

Each figure's record names the step, its settings, its inputs and its options. The step runs again
with the same ones and another output. Nothing in the run is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from mammo_sae.errors import InputError
from mammo_sae.provenance import SUFFIX
from mammo_sae.records import find_records, recorded_arguments
from mammo_sae.settings import parse_settings
from mammo_sae.steps import FIGURE, STEPS
from mammo_sae.stores.publish import read_json

FORMATS = ("svg", "pdf")


def redraw(folder: Path, output: Path, form: str, only: Sequence[str] = ()) -> Iterator[Path]:
    """Draw the figures of a run again, and yield each file when it is written.

    Parameters
    ----------
    folder
        The folder of the run.
    output
        The folder to write. Below it, files have the same names as in the run's folder `figures`.
    form
        The format: svg or pdf.
    only
        Names of figures or of folders of figures, without `.png`. Default: all figures.

    Raises
    ------
    InputError
        If there is no such format or figure, a figure was drawn by a version that did not record
        its options, or an input of a figure is missing or damaged.
    """
    if form not in FORMATS:
        raise InputError(f"there is no format {form!r}; choose one of {', '.join(FORMATS)}")
    for name, record in chosen(folder, only).items():
        yield _draw(record, output / f"{name}.{form}")


def chosen(folder: Path, only: Sequence[str] = ()) -> dict[str, Path]:
    """Return name -> record of the run's figures that `only` names, or of all.

    Raises
    ------
    InputError
        If the run has no figures, or none of a name.
    """
    home = folder / "figures"
    records = {}
    for record in find_records(home):
        if read_json(record)["step"].startswith(FIGURE):
            figure = record.with_name(record.name.removesuffix(SUFFIX))
            records[figure.relative_to(home).with_suffix("").as_posix()] = record
    if not records:
        raise InputError(f"{folder} has no figures; give the folder of a finished run")
    wanted = {name: PurePosixPath(name.removesuffix(".png")) for name in only}
    for given, path in wanted.items():
        if not any(PurePosixPath(name).is_relative_to(path) for name in records):
            parts = sorted({PurePosixPath(name).parts[0] for name in records})
            raise InputError(f"there is no figure {given!r}; there are {', '.join(parts)}")
    return {
        name: record
        for name, record in records.items()
        if not only or any(PurePosixPath(name).is_relative_to(path) for path in wanted.values())
    }


def _draw(record: Path, target: Path) -> Path:
    content = read_json(record)
    step = STEPS[content["step"]]
    arguments: dict[str, Any] = recorded_arguments(record)
    if step.settings is not None:
        arguments["settings"] = parse_settings(step.settings, content["config"], str(record))
    written = {record.parent / name for name in content["outputs"]}
    outputs = {path.resolve() for path in written}
    with TemporaryDirectory() as aside:
        for name, value in arguments.items():
            if isinstance(value, Path) and value.resolve() in outputs:
                arguments[name] = Path(aside, value.name)  # a table that the step writes too
        arguments["output"] = target
        import_module(step.module).run(**arguments)
    return target

"""Step: write an RO-Crate, which lists each step that ran, its inputs and its outputs.

RO-Crate 1.1 with the Process Run Crate profile has one action per step that ran, taken from the
records next to the results (`mammo_sae.records`): its settings, code, packages and machine, its
inputs, and its outputs with SHA-256. Only the steps behind the given results are listed; other
files in the folder may be of older runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from mammo_sae.errors import InputError
from mammo_sae.records import find_records
from mammo_sae.stores.publish import read_json, write_plain_json

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
STORE_SUFFIXES = (".zarr", "")


def run(*, results: Sequence[Path], output: Path) -> list[Path]:
    """Describe the run as an RO-Crate: the inputs and outputs of each step.

    Parameters
    ----------
    results
        Tables and figures of the run. All steps behind them are listed.
    output
        `ro-crate-metadata.json` in the run's folder, which is the root of the crate.

    Raises
    ------
    InputError
        If a result has no record. The message names the result.
    """
    folder = output.parent
    records = {path: record for record in _records(folder) for path in record.outputs}
    wanted: dict[Path, _Record] = {}
    waiting = sorted(results)
    while waiting:
        path = waiting.pop()
        record = records.get(path)
        if record is None and path in results:
            raise InputError(f"{path} has no record of the step that made it; make it again")
        if record is not None and record.path not in wanted:
            wanted[record.path] = record
            waiting += record.inputs
    crate = ROCrate()
    crate.metadata.extra_contexts.append(TERMS)
    _describe_root(crate, results)
    for _, record in sorted(wanted.items()):
        _add_action(crate, record, folder)
    write_plain_json(output, crate.metadata.generate())
    return [output]


class _Record:
    """A step's record. Paths are relative to the working directory, as in the step's arguments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_json(path)
        self.inputs = {Path(name): digest for name, digest in self.content["inputs"].items()}
        self.outputs = {
            Path(os.path.normpath(path.parent / name)): (size, digest)
            for name, (size, digest) in self.content["outputs"].items()
        }


def _records(folder: Path) -> Iterator[_Record]:
    for path in find_records(folder):
        yield _Record(path)


def _describe_root(crate: ROCrate, results: Sequence[Path]) -> None:
    newest = max(path.stat().st_mtime for path in results)
    crate.name = "Results of mammo-sae"
    crate.description = (
        "Sparse autoencoders of a mammography network's layers: latents, probes, interventions, "
        "alignment and confounds, with the settings and digests of every step."
    )
    crate.datePublished = datetime.fromtimestamp(newest, UTC).date().isoformat()
    crate.license = "Results derive from the cohort's images and follow its terms."
    crate.root_dataset["conformsTo"] = crate.add(
        ContextEntity(
            crate, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
        )
    )


def _add_action(crate: ROCrate, record: _Record, folder: Path) -> None:
    """Add a step's run: its software, settings, machine, inputs and outputs."""
    content = record.content
    name = content["step"]
    software = _entity(
        crate,
        f"#step-{name}-{content['code']}",
        {
            "@type": "SoftwareApplication",
            "name": f"mammo_sae {name}",
            "softwareVersion": content["revision"] or "not under version control",
            "identifier": content["code"],
        },
    )
    if software.get("softwareRequirements") is None:
        software["softwareRequirements"] = [
            _entity(
                crate,
                f"#package-{package}-{number}",
                {"@type": "SoftwareApplication", "name": package, "softwareVersion": number},
            )
            for package, number in sorted(content["packages"].items())
            if number is not None
        ]
    action = f"#run-{record.path.relative_to(folder).as_posix()}"
    settings = _property(crate, f"{action}-settings", "settings", content["config"])
    machine = ", ".join(f"{key} {value}" for key, value in sorted(content["machine"].items()))
    outputs = [
        _file(crate, folder, path, digest, size)
        for path, (size, digest) in sorted(record.outputs.items())
    ]
    inputs = [_file(crate, folder, path, digest) for path, digest in sorted(record.inputs.items())]
    entity = _entity(
        crate,
        action,
        {"@type": "CreateAction", "name": name, "actionStatus": "CompletedActionStatus"},
    )
    entity["instrument"] = software
    entity["object"] = [*inputs, settings]
    entity["result"] = outputs
    entity["environment"] = _property(crate, f"#machine-{machine}", "machine", machine)
    crate.root_dataset.append_to("mentions", entity)


def _file(
    crate: ROCrate, folder: Path, path: Path, digest: str, size: int | None = None
) -> ContextEntity:
    """Return the entity of a file. A file outside the run's folder is identified by its digest."""
    if not path.is_relative_to(folder):
        return _property(crate, f"#sha256-{digest}", "a file outside of the run", digest)
    place = path.relative_to(folder).as_posix()
    entity = crate.get(place)
    if entity is None:
        entity = crate.add_file(dest_path=place, properties={"sha256": digest})
        for suffix in STORE_SUFFIXES:
            store = path.with_suffix(suffix)
            if path.suffix == ".json" and store.is_dir():
                properties = {"description": f"Store whose files' digests are in {place}"}
                crate.add_dataset(
                    dest_path=store.relative_to(folder).as_posix(), properties=properties
                )
    if size is not None:
        entity["contentSize"] = str(size)
    return entity


def _property(crate: ROCrate, identifier: str, name: str, value: Any) -> ContextEntity:
    return _entity(crate, identifier, {"@type": "PropertyValue", "name": name, "value": value})


def _entity(crate: ROCrate, identifier: str, properties: Mapping[str, Any]) -> ContextEntity:
    found = crate.get(identifier)
    if found is not None:
        return found
    return crate.add(ContextEntity(crate, identifier, dict(properties)))

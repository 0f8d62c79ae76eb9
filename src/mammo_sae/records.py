"""One record per job: its step, settings and inputs, and the digests of its output files.

The command line writes a record when a step is finished. Records are not part of manifests, because
machine, revision and versions may differ although the content is equal. `verify` checks tables,
models and figures with records, and stores with manifests.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mammo_sae.digests import SOURCE
from mammo_sae.errors import InputError
from mammo_sae.provenance import SUFFIX, Provenance, record_path
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import read_json, write_json


def write_record(
    outputs: Sequence[Path],
    provenance: Provenance,
    packages: Iterable[str],
    arguments: Mapping[str, Any] | None = None,
) -> Path:
    """Write the record of a step that has just made `outputs`. Return the path of the record.

    Parameters
    ----------
    outputs
        The output files. A store is given by its manifest. The record is written next to the first
        file.
    provenance
        Step, settings, code and inputs. Paths of sources and keys are left out of the settings.
        Inputs that are also outputs, from an earlier run of the step, are left out too.
    packages
        Distributions whose versions are recorded.
    arguments
        The arguments of the step, to be recorded so that it can be run again from its record
        (`recorded_arguments`). None: they are not recorded.
    """
    record = record_path(outputs[0])
    written = {os.path.relpath(path) for path in outputs}
    content = {
        **provenance.recorded(),
        "inputs": {path: of for path, of in provenance.inputs.items() if path not in written},
        "outputs": {
            os.path.relpath(path, record.parent): [path.stat().st_size, file_digest(path)]
            for path in outputs
        },
        "packages": {name: _version(name) for name in packages},
        "machine": _machine(),
        "revision": _revision(),
    }
    if arguments is not None:
        content["arguments"] = _relative(arguments, record.parent)
    write_json(record, content)
    return record


def recorded_arguments(record: Path) -> dict[str, Any]:
    """Return the arguments of a step without its settings, from its record.

    Paths are those of today, wherever the folder of results has been moved.

    Raises
    ------
    InputError
        If the record has no arguments.
    """
    content = read_json(record)
    if "arguments" not in content:
        raise InputError(f"{record} does not say how its file was made; make the file again")

    def path(value: Any) -> Any:
        if isinstance(value, list):
            return [path(name) for name in value]
        return Path(os.path.normpath(record.parent / value))

    kinds = content["arguments"]
    return {**kinds["options"], **{name: path(value) for name, value in kinds["paths"].items()}}


def _relative(arguments: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Return arguments as JSON can hold them: paths relative to `folder`, and other options."""
    found: dict[str, dict[str, Any]] = {"paths": {}, "options": {}}
    for name, value in arguments.items():
        if name == "settings":
            continue
        each = value if isinstance(value, list) else [value]
        if each and all(isinstance(one, Path) for one in each):
            names = [os.path.relpath(one, folder) for one in each]
            found["paths"][name] = names if isinstance(value, list) else names[0]
        else:
            found["options"][name] = value
    return found


def input_digests(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return path -> SHA-256 of the files among the arguments of a step.

    For a model's folder or description (`encoder`, `head`, `sae`), these are the digests of its
    description and its weights.
    """
    found: dict[Path, str] = {}
    for value in arguments.values():
        for given in value if isinstance(value, list) else [value]:
            for path in _files(given) if isinstance(given, Path) else ():
                if path not in found:
                    found[path] = file_digest(path)
    return {os.path.relpath(path): digest for path, digest in found.items()}


def _files(path: Path) -> list[Path]:
    for kind in ("encoder", "head", "sae"):
        description = path / f"{kind}.json" if path.is_dir() else path
        if description.name == f"{kind}.json" and description.is_file():
            weights = description.with_suffix(".safetensors")
            return [description, *([weights] if weights.is_file() else [])]
    return [path] if path.is_file() else []


def find_records(folder: Path) -> list[Path]:
    """Return all records in `folder`, at any depth."""
    return sorted(folder.rglob(f"*{SUFFIX}"))


def verify_record(record: Path) -> list[tuple[Path, str]]:
    """Return the files of a record that have changed since they were written, with the fault."""
    problems = []
    for name, (size, digest) in read_json(record)["outputs"].items():
        path = record.parent / name
        if not path.is_file():
            problems.append((path, f"{path} is missing"))
        elif path.stat().st_size != size:
            problems.append((path, f"{path} has {path.stat().st_size} bytes, not {size}"))
        elif file_digest(path) != digest:
            problems.append((path, f"{path} was changed after it was written"))
    return problems


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    """Return the machine's properties, but not its name, which may identify the data's owner."""
    machine: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    # Steps without torch do not import it, because the import is slow.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _revision() -> str | None:
    """Return the git revision of the running source, with a mark if edited, or None without git."""
    command = [
        "git",
        "-C",
        str(SOURCE),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--match=",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

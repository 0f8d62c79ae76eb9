"""Find what would run again and the causes: keys, modules, packages and files.

Snakemake decides what is stale, and its reasons name parameters. Each rule has one parameter with
its settings and one with the parts of its code. A comparison of the recorded parameters with the
current ones therefore gives the key, the module or the package behind each reason.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.config import Config, read_config
from mammo_sae.digests import PACKAGE, SOURCE, module_path
from mammo_sae.errors import InputError
from mammo_sae.steps import STEPS

MISSING = object()
# Parts of an archive's state other than its images (`mammo_sae.cohorts.state`, workflow/rules).
WHOLE = {"every image", "regions", "splits"}


def explain_staleness(folder: Path, configs: Sequence[Path], directory: Path) -> list[str]:
    """Return lines that describe what would run again in a project, and the causes.

    Parameters
    ----------
    folder
        The folder of the Snakefile.
    configs
        Configurations. Values of later files replace earlier ones. If empty, the default is used.
    directory
        The working folder, to which the paths of results and of the configuration are relative.

    Raises
    ------
    InputError
        If there is no workflow or its configuration is wrong. The message is Snakemake's.
    """
    for path in (folder / "Snakefile", directory):
        if not path.exists():
            raise InputError(f"{path} is missing; give the project's folder, and --directory")
    jobs = _stale_jobs(folder.resolve(), configs, directory.resolve())
    if not jobs:
        return ["Nothing is stale."]
    config = read_config(configs)
    roots: dict[str, Counter[str]] = defaultdict(Counter)
    followers: Counter[str] = Counter()
    with chdir(directory):
        for job in jobs:
            causes = list(_causes(job, config))
            for cause in causes:
                roots[cause][job.rule] += 1
            if not causes:
                followers[job.rule] += 1
    lines = []
    for cause, rules in sorted(roots.items()):
        lines.append(f"{cause}: {_counted(rules)}")
    if followers:
        lines.append(f"what follows from these: {_counted(followers)}")
    lines.append(f"{len(jobs)} jobs would run; snakemake -n lists them.")
    return lines


def differences(
    old: Any, new: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield (path, old, new) for every leaf that differs between two JSON values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name, MISSING), new.get(name, MISSING), (*path, name))
    elif old != new:
        yield path, old, new


def _shown(value: Any) -> str:
    return "absent" if value is MISSING else json.dumps(value, sort_keys=True)


def _counted(rules: Counter[str]) -> str:
    return ", ".join(
        f"{rule} ({count} jobs)" if count > 1 else rule for rule, count in sorted(rules.items())
    )


@dataclass(frozen=True)
class _StaleJob:
    rule: str
    wildcards: dict[str, str]
    reason: Any  # snakemake.jobs.Reason
    parameters: Any  # snakemake.persistence.ParamsChange
    names: dict[str, str]  # names of the rule's parameters, by the `repr` of their values


def _stale_jobs(folder: Path, configs: Sequence[Path], directory: Path) -> list[_StaleJob]:
    """Return every job that a dry run would start."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

    # Snakemake always prints its plan to the terminal. Only its errors are used here.
    with _captured_output() as told, SnakemakeApi(OutputSettings(dryrun=True)) as snakemake:
        try:
            workflow = snakemake.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=[path.resolve() for path in configs]),
                snakefile=folder / "Snakefile",
                workdir=directory,
            )
            workflow.dag().execute_workflow(executor="dryrun")
        except Exception as error:
            snakemake.print_exception(error)
            told.seek(0)
            lines = [line.strip() for line in told]
            # From "Wildcards:" on, lines give the place in the rules. The message is before them.
            if "Wildcards:" in lines:
                del lines[lines.index("Wildcards:") :]
            *_, last = [line for line in lines if line and not line.startswith("File ")]
            raise InputError(f"the workflow can't be planned: {last}") from None
        # The plan is not part of Snakemake's public interface, but the pin in envs keeps the
        # version fixed.
        dag = workflow._workflow.dag
        # Snakemake does not compare the parameters of a job that depends on a stale job. They are
        # compared here, to name all causes.
        changed = workflow._workflow.persistence.params_changed
        return [
            _StaleJob(
                rule=job.rule.name,
                wildcards=dict(job.wildcards_dict),
                reason=dag.reason(job),
                parameters=changed(job),
                names={repr(value): name for name, value in job.params.items()},
            )
            # The dry run counts its jobs as finished.
            for job in dag.needrun_jobs(exclude_finished=False)
            if job.output
        ]


@contextmanager
def _captured_output() -> Iterator[TextIO]:
    """Send the output of this process and its children to a file, and yield the file."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(1), os.dup(2)]
        try:
            os.dup2(told.fileno(), 1)
            os.dup2(told.fileno(), 2)
            yield told
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


def _causes(job: _StaleJob, config: Config) -> Iterator[str]:
    """Yield the causes that make a job stale; none if the job only depends on a stale job."""
    rule, reason = job.rule, job.reason
    if job.parameters:
        yield from _parameters(job, config)
    if reason.software_stack_changed:
        yield "the environment (envs/) changed"
    if reason.code_changed:
        yield f"the command of rule {rule} changed"
    updated = {str(path) for path in reason.updated_input - reason.updated_input_run}
    for path in sorted(updated):
        yield f"{path} changed"
    if reason.input_changed and not reason.updated_input_run:
        yield f"rule {rule} has other input files than before"
    if reason.incomplete_output:
        yield "an earlier run was interrupted"
    if reason.missing_output and not reason.updated_input_run:
        yield "not there yet"


def _parameters(job: _StaleJob, config: Config) -> Iterator[str]:
    """Yield the differences between the recorded parameters and the current ones.

    Snakemake records parameters as a set of `repr`s without their names. The content shows which
    were settings and which were code.
    """
    before, now = _sorted_out(job.parameters.only_old), _sorted_out(job.parameters.only_new)
    # An unchanged parameter is in neither set.
    if before["code"] and now["code"]:
        for part in sorted(before["code"].keys() | now["code"].keys()):
            recorded, current = before["code"].get(part), now["code"].get(part)
            if recorded == current:
                continue
            if part.partition(".")[0] == PACKAGE:
                path = module_path(part)
                gone = f"module {part}, removed or no longer used,"
                yield f"{path.relative_to(SOURCE.parents[1]) if path else gone} changed"
            elif "." in part:  # The name of a distribution contains no dot.
                yield f"module {part} of another package changed"
            else:
                yield f"envs: {part} {recorded or 'absent'} -> {current or 'absent'}"
    if before["cfg"] is not None and now["cfg"] is not None:
        for place, old, new in differences(before["cfg"], now["cfg"]):
            key = STEPS[job.rule].key_of(place, config, job.wildcards)
            yield f"{key}: {_shown(old)} -> {_shown(new)}"
    if before["archive"] is not None and now["archive"] is not None:
        yield from _archive(before["archive"], now["archive"], config)
    if before["other"] != now["other"]:
        old_text, new_text = (", ".join(side["other"]) or "nothing" for side in (before, now))
        names = {job.names[text] for text in job.parameters.only_new if text in job.names}
        others = ", ".join(sorted(names - {"cfg", "code", "content"})) or "parameters"
        yield f"{others} of {job.rule}: {old_text} -> {new_text}"


def _archive(old: Any, new: Any, config: Config) -> Iterator[str]:
    """Yield the changes of the user's archive: tables by name, and files by path."""
    changes = [(path[-1], was, now) for path, was, now in differences(old, new)]
    files: dict[str, str] = {}
    if any(name not in WHOLE and "/" not in name for name, _, _ in changes):
        pseudonyms = load_pseudonyms(config.cohort.key_file)
        sources = [Path(source) for source in config.sources()]
        found = Sources(config.cohort.kind, sources).files(pseudonyms)
        files = {image: str(where.dicom) for image, where in found.items()}
    for name, was, now in changes:
        word = "removed" if now is MISSING else "added" if was is MISSING else "changed"
        if name == "every image":
            continue  # the parameters of the rule `images` name the images
        table = "/" in name or name in WHOLE
        what = f"{name} of the archive" if table else files.get(name, f"image {name}")
        yield f"{what} {word}"


def _sorted_out(values: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"code": {}, "cfg": None, "archive": None, "other": []}
    for text in sorted(values):
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        try:
            content = json.loads(value)
        except (TypeError, ValueError):
            content = None
        if not isinstance(content, dict):
            found["other"].append(str(value))
        elif PACKAGE in content:
            found["code"] = content
        elif content.keys() == {"archive"}:
            found["archive"] = content["archive"]
        else:
            found["cfg"] = content
    return found

"""What would run again, and why, for people: Snakemake's own reasons, traced to their roots.

Snakemake decides what is stale. Its reasons name parameters; since each rule has one parameter for
its settings and one for its code, part by part, comparing what is recorded with what would be used
now names the key, the module or the package behind each.
"""

from __future__ import annotations

import ast
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammo_sae.digests import PACKAGE
from mammo_sae.errors import InputError

# The key of the configuration under which a rule's settings stand, where it is not the rule's
# name. What is in braces is a wildcard of the rule.
KEYS = {
    "images": "images",
    "import_encoder": "encoders.{encoder}",
    "finetune": "encoders.{encoder}",
    "extract": "extraction",
    "evaluate_encoder": "evaluation",
    "train_sae": "saes.{sae}",
}
MISSING = object()


def explain_staleness(folder: Path, configs: Sequence[Path]) -> list[str]:
    """Return lines that say what would run again in a project, and what brought it about.

    Parameters
    ----------
    folder
        The folder of the Snakefile; results are looked for there too.
    configs
        Configurations, later ones laid over earlier ones; none: the default.

    Raises
    ------
    InputError
        If there is no workflow or its configuration is wrong, as Snakemake says it.
    """
    jobs = _stale_jobs(folder, configs)
    if not jobs:
        return ["Nothing is stale."]
    roots: dict[str, Counter[str]] = defaultdict(Counter)
    followers: Counter[str] = Counter()
    for rule, wildcards, reason in jobs:
        causes = list(_causes(rule, wildcards, reason, folder))
        for cause in causes:
            roots[cause][rule] += 1
        if not causes:
            followers[rule] += 1
    lines = []
    for cause, rules in sorted(roots.items()):
        lines.append(f"{cause}: {_counted(rules)}")
    if followers:
        lines.append(f"what follows from these: {_counted(followers)}")
    lines.append(f"{len(jobs)} jobs would run; snakemake -n lists them.")
    return lines


def differences(old: Any, new: Any, key: str) -> Iterator[str]:
    """Yield `key: old -> new` for every leaf in which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name, MISSING), new.get(name, MISSING), f"{key}.{name}")
    elif old != new:
        yield f"{key}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    return "absent" if value is MISSING else json.dumps(value, sort_keys=True)


def _counted(rules: Counter[str]) -> str:
    return ", ".join(
        f"{rule} ({count} jobs)" if count > 1 else rule for rule, count in sorted(rules.items())
    )


def _stale_jobs(folder: Path, configs: Sequence[Path]) -> list[tuple[str, dict[str, str], Any]]:
    """Return rule, wildcards and Snakemake's reason of every job that a dry run would start."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import print_exception
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

    settings = OutputSettings(dryrun=True, quiet={Quietness.ALL})
    with SnakemakeApi(settings) as snakemake:
        try:
            workflow = snakemake.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=[path.resolve() for path in configs]),
                snakefile=folder / "Snakefile",
                workdir=folder,
            )
            workflow.dag().execute_workflow(executor="dryrun")
        except Exception as error:
            print_exception(error)
            raise InputError("the workflow can't be planned, see above") from None
        # The plan itself is not part of Snakemake's public interface; the pin in envs holds it.
        dag = workflow._workflow.dag
        return [
            (job.rule.name, dict(job.wildcards_dict), dag.reason(job))
            for job in dag.needrun_jobs()
            if job.output
        ]


def _causes(rule: str, wildcards: Mapping[str, str], reason: Any, folder: Path) -> Iterator[str]:
    """Yield what made one job stale by itself; nothing if it only follows from another."""
    if reason.forced:
        yield "forced"
    if reason.params_changed:
        yield from _parameters(
            KEYS.get(rule, rule).format(**wildcards),
            reason.params_changed.only_old,
            reason.params_changed.only_new,
        )
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


def _parameters(key: str, old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    """Yield the differences between the parameters recorded and those of now.

    Snakemake keeps parameters as a set of `repr`s, without their names: what was settings and
    what was code is told by its content.
    """
    before, now = _sorted_out(old), _sorted_out(new)
    # A parameter that is the same now and then is in neither set.
    if before["code"] and now["code"]:
        for part in sorted(before["code"].keys() | now["code"].keys()):
            recorded, current = before["code"].get(part), now["code"].get(part)
            if recorded == current:
                continue
            if part.partition(".")[0] == PACKAGE:
                yield f"src/{part.replace('.', '/')} changed"
            else:
                yield f"envs: {part} {recorded or 'absent'} -> {current or 'absent'}"
    if before["cfg"] is not None and now["cfg"] is not None:
        yield from differences(before["cfg"], now["cfg"], key)
    if before["other"] != now["other"]:
        yield f"{', '.join(before['other']) or 'nothing'} -> {', '.join(now['other']) or 'nothing'}"


def _sorted_out(values: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"code": {}, "cfg": None, "other": []}
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
        else:
            found["cfg"] = content
    return found

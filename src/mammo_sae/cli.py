"""The command line: one verb per step of the workflow, and some verbs for people.

The verb of a step is made from its row in `mammo_sae.steps` and the signature of `run` in its
module. The verbs for people are the functions of `mammo_sae.people`. The verb of a step takes the
step's slice of the configuration (`--settings`: JSON text, or `@` and a file) and the paths of its
inputs and outputs, so every step also runs without Snakemake. `slice` prints the settings of a step
for a configuration::

    .venv/bin/python -m mammo_sae slice train_sae layer=head sae=topk seed=0 --configfile mine.yaml
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from mammo_sae.arguments import Argument, UsageError, parse, parser_of, read_functions, shown
from mammo_sae.complaints import nearest
from mammo_sae.digests import packages
from mammo_sae.errors import DroppedError, InputError
from mammo_sae.provenance import Provenance
from mammo_sae.records import input_digests, write_record
from mammo_sae.settings import canonical_json, parse_settings
from mammo_sae.steps import FIGURE, STEPS

PROGRAM = "python -m mammo_sae"
PEOPLE = "mammo_sae.people"

# Advice for errors that the machine or a path causes, and not the program.
ENVIRONMENT_ERRORS = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room within your quota and run again",
    errno.EACCES: "get permission to write there and run again",
    errno.EROFS: "write the results elsewhere (key `results`)",
    errno.EISDIR: "give the path of a file",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.EEXIST: "give a path whose folders are folders",
    errno.ENOENT: "correct the path",
    errno.ENAMETOOLONG: "give a shorter path",
}
# Advice on how a step can use less GPU memory.
LESS_MEMORY = {
    "train_sae": "lower the SAE's `buffer` or `batch`",
    "finetune": "halve the recipe's `batch_size` and double its `accumulate`",
}

# Steps whose work several processes can share, as ranks of torchrun.
SHARED = {"finetune"}


def main() -> None:
    """Run the command line and exit: with 2 if verb or options are wrong, with 1 if an input is.

    In both cases a message of one sentence is printed.
    """
    words = sys.argv[1:]
    try:
        run(words)
    except UsageError as error:
        _fail(str(error), 2)
    except InputError as error:
        _fail(str(error), 1)
    except KeyError as error:
        said = missing_column(error, words)
        if said is None:
            raise
        _fail(said, 1)
    except (MemoryError, OSError, RuntimeError) as error:
        said = out_of_memory(error, words[0]) or refused_by_system(error)
        if said is None:
            raise
        _fail(said, 1)


def _fail(said: str, status: int) -> None:
    # Of several ranks, `compute.launch` prints the message when all have ended.
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        Path(file).write_text(json.dumps({"message": said}), encoding="utf-8")
    else:
        print(f"error: {said}", file=sys.stderr)
    sys.exit(status)


def run(words: Sequence[str]) -> None:
    """Run the command that the words describe.

    Raises
    ------
    UsageError
        If there is no such verb, or its options are wrong.
    """
    if not words or words[0] in {"-h", "--help"}:
        print(overview())
        return
    name = words[0].replace("-", "_")
    people = read_functions(PEOPLE)
    if name in STEPS:
        run_step(name, words[1:])
    elif name in people:
        parser = parser_of(f"{PROGRAM} {_verb(name)}", people[name], places=True)
        work = getattr(import_module(PEOPLE), name)
        given = parse(parser, words[1:])
        for argument in people[name].arguments:
            if argument.kind == "Mapping[str, str]" and argument.name in given:
                given[argument.name] = dict(given[argument.name])
        _collect_garbage()
        work(**given)
    else:
        near = nearest(words[0], [_verb(known) for known in (*STEPS, *people)])
        raise UsageError(f"{words[0]!r} is not a verb{near}; {PROGRAM} --help lists them")


def overview() -> str:
    """Return one line per verb with its description."""
    steps = {
        _verb(name): read_functions(step.module)["run"].summary for name, step in STEPS.items()
    }
    people = {_verb(name): function.summary for name, function in read_functions(PEOPLE).items()}
    return (
        f"usage: {PROGRAM} VERB ...; {PROGRAM} VERB --help lists its options\n\n"
        f"Steps of the workflow:\n{shown(steps)}\n\nFor people:\n{shown(people)}"
    )


def _verb(name: str) -> str:
    return name.replace("_", "-")


def run_step(step: str, words: Sequence[str]) -> None:
    """Run a step with the arguments that `words` give, and write a record next to its outputs.

    Raises
    ------
    InputError
        If the options, the settings or the inputs are wrong.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _run_step(step, words)
        return
    if step not in SHARED:
        raise InputError(f"{step} runs in one process; start it without torchrun")
    from mammo_sae.compute.ranks import joined

    with joined():
        _run_step(step, words)


def _run_step(step: str, words: Sequence[str]) -> None:
    function = read_functions(STEPS[step].module)["run"]
    given = parse(parser_of(f"{PROGRAM} {_verb(step)}", function, places=False), words)
    arguments = {
        argument.name: _value(step, argument, given[argument.name])
        for argument in function.arguments
        if argument.name in given
    }
    try:
        _work(step, arguments)
    except DroppedError as error:
        from mammo_sae.again import make_again

        make_again(error.manifests, _run_step)
        _work(step, arguments)


def _work(step: str, arguments: dict[str, Any]) -> None:
    """Do the work of a step, and write its record."""
    work = import_module(STEPS[step].module).run
    inputs = input_digests(arguments)

    def made_by(settings: Any) -> Provenance:
        config = canonical_json(settings)
        return Provenance(step=step, config=config, code=STEPS[step].digest(config), inputs=inputs)

    provenance = made_by(arguments.get("settings", {}))
    known = {"made_by": made_by} if "made_by" in signature(work).parameters else {}
    _collect_garbage()
    outputs = work(**arguments, **known)
    if outputs:  # of several ranks only the first has outputs
        versions = packages(*STEPS[step].modules(provenance.config))
        # A figure is drawn again for a paper from its record (`library.figures`).
        kept = arguments if step.startswith(FIGURE) else None
        write_record(outputs, provenance, versions, kept)


def _collect_garbage() -> None:
    """Turn the search for garbage on, if `__main__` has turned it off.

    It leaves out the objects of the imports, which stay until the process ends.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _value(step: str, argument: Argument, given: Any) -> Any:
    """Return the value of an option for the function, from the value that argparse returned."""
    if argument.name == "settings":
        return _settings(step, given)
    if argument.kind == "Mapping[str, str]":
        return dict(given)
    if argument.kind == "Mapping[Path, SaeTraining]":
        return {Path(path): _settings(step, text) for path, text in given}
    if argument.kind.endswith("Identity"):
        encoder, layer, sae, seed = given
        if not seed.isdecimal():
            raise UsageError(f"--{argument.name}: seed {seed!r} is not a whole number; give one")
        from mammo_sae.analysis.cases import Identity

        return Identity(encoder, layer, sae, int(seed))
    return given


def _settings(step: str, text: str) -> Any:
    """Return a step's settings from JSON, or from `@` and the name of a JSON file."""
    if text.startswith("@"):
        file = Path(text[1:])
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"settings {file} can't be read ({error.strerror}); give @ and a JSON file"
            ) from None
    return parse_settings(STEPS[step].settings, text, f"settings of {step}")


def out_of_memory(error: Exception, verb: str) -> str | None:
    """Return advice if memory was not enough, or None for another error."""
    if isinstance(error, MemoryError):
        return f"{verb}: memory is not enough; run it where there is more (on SLURM: mem_mb)"
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return None
    less = LESS_MEMORY.get(verb.replace("-", "_"))
    advice = f"{less}, or run" if less else "run"
    return f"{verb}: the GPU's memory is not enough; {advice} it on a GPU with more"


def refused_by_system(error: Exception) -> str | None:
    """Return advice on an error of the operating system, or None for another error.

    The writer of stores is written in Rust. Its errors have no number and no file, but their text
    ends with the number: `(os error 28)`.
    """
    if isinstance(error, OSError):
        number = error.errno
        file = error.filename2 or error.filename  # the second is the target of a renaming
    else:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number, file = int(found[1]) if found else None, None
    if number not in ENVIRONMENT_ERRORS:
        return None
    where = f"{file}: " if file else ""
    return f"{where}{os.strerror(number)}; {ENVIRONMENT_ERRORS[number]}"


def missing_column(error: KeyError, words: Sequence[str]) -> str | None:
    """Return advice if a table among `words` lacks a column, or None for another error."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    column = error.args[0] if error.args else None
    within = "" if frame is None else frame.tb_frame.f_globals.get("__name__", "")
    if not within.startswith("pandas.") or not isinstance(column, str):
        return None
    from mammo_sae.stores.tables import read_columns

    tables = [Path(word) for word in words if word.endswith((".parquet", ".csv"))]
    without = [str(path) for path in tables if path.is_file() and column not in read_columns(path)]
    if not without:
        return None
    which = " or ".join(dict.fromkeys(without))
    return f"{which} lacks the column {column!r}; give each option the table that it names"

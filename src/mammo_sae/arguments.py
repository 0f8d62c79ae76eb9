"""The arguments of a command-line verb, read from a function's signature and docstring.

The options of a verb are the keyword arguments of its function, under the same names. Their help
texts come from the section "Parameters" of the docstring (in numpydoc's format). The function's
file is parsed and not imported, so `--help` and the check of options do not need torch.
"""

from __future__ import annotations

import argparse
import ast
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mammo_sae.complaints import nearest
from mammo_sae.digests import module_path
from mammo_sae.errors import InputError

# Arguments with the same meaning in every step.
SHARED = {
    "settings": "The step's settings: JSON, or @ and a file that contains JSON.",
    "identity": "Identity of the SAE.",
}
# Arguments that are not options, because the command line itself passes them to the function.
NOT_ON_THE_COMMAND_LINE = {"made_by"}


class UsageError(InputError):
    """The verb or an option of a command is wrong. The message is one sentence."""


@dataclass(frozen=True)
class Argument:
    """One argument of a function.

    Attributes
    ----------
    name
        Name of the argument.
    kind
        The text of its annotation, without `| None`.
    required
        Whether the argument has no default.
    positional
        Whether the argument is positional in the function's signature.
    help
        Description of the argument in the docstring.
    """

    name: str
    kind: str
    required: bool
    positional: bool
    help: str


@dataclass(frozen=True)
class Function:
    """The parts of a function that the command line shows: its docstring and its arguments."""

    text: str
    arguments: tuple[Argument, ...]

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.text.partition("\n")[0]


def read_functions(module: str) -> dict[str, Function]:
    """Return the public functions that a module of this package defines, by name.

    Raises
    ------
    ModuleNotFoundError
        If there is no such module.
    """
    path = module_path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module}")
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return {
        node.name: _function(node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def _function(node: ast.FunctionDef) -> Function:
    text, helps = _docstring(ast.get_docstring(node) or "")
    arguments = []
    positional = node.args.args
    optional = len(positional) - len(node.args.defaults)
    found = [(arg, True, place < optional) for place, arg in enumerate(positional)]
    keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    found += [(arg, False, default is None) for arg, default in keywords]
    for arg, by_place, required in found:
        if arg.arg in NOT_ON_THE_COMMAND_LINE:
            continue
        kind = ast.unparse(arg.annotation).removesuffix(" | None") if arg.annotation else ""
        arguments.append(
            Argument(
                arg.arg, kind, required, by_place, SHARED.get(arg.arg) or helps.get(arg.arg, "")
            )
        )
    return Function(text, tuple(arguments))


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring above its sections, and the description of each parameter."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    lines = text.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and below and set(below) == {"-"}:
            current = line
            sections[current] = []
        elif not (line and set(line) == {"-"}):
            sections[current].append(line)
    helps: dict[str, str] = {}
    names: list[str] = []
    for line in sections.get("Parameters", ()):
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        for name in names if line.startswith(" ") else ():
            helps[name] = f"{helps.get(name, '')} {line.strip()}".strip()
    return "\n".join(sections[""]).strip(), helps


class Parser(argparse.ArgumentParser):
    """A parser that describes an error in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`, naming the verb."""
        raise UsageError(f"{message}; {self.prog} --help lists the options")


def parser_of(prog: str, function: Function, *, places: bool) -> Parser:
    """Return the parser of a verb that calls `function`.

    Parameters
    ----------
    prog
        The command as typed, for messages.
    function
        The function that the verb calls.
    places
        Whether positional arguments are given by position. If not, all arguments are options.
    """
    parser = Parser(
        prog=prog,
        description=function.text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    needed = parser.add_argument_group("needed")
    for argument in function.arguments:
        form = {**_form(argument), "help": argument.help.replace("%", "%%")}
        if places and argument.positional:
            parser.add_argument(argument.name, **form)
        else:
            place = needed if argument.required else parser
            option = f"--{argument.name.replace('_', '-')}"
            place.add_argument(option, dest=argument.name, required=argument.required, **form)
    return parser


def _form(argument: Argument) -> dict[str, Any]:
    """Return the keywords of argparse's `add_argument` for an argument of this kind.

    Raises
    ------
    TypeError
        If the command line can't give an argument of this kind.
    """
    if argument.name == "settings":
        return {"metavar": "JSON"}
    kind = argument.kind.rpartition(".")[2] if argument.kind.endswith("Identity") else argument.kind
    if kind in SINGLE:
        return SINGLE[kind]
    for form, of in (("Sequence[", SINGLE), ("Mapping[", PAIRS)):
        if kind.startswith(form) and kind[len(form) : -1] in of:
            each = of[kind[len(form) : -1]]
            many = {"nargs": "+" if argument.required else "*"}
            # A list may be given in several parts, like `--configfile a.yaml --configfile b.yaml`.
            return {**each, **many, **({} if argument.positional else {"action": "extend"})}
    raise TypeError(f"{argument.name}: the command line can't give a {argument.kind}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or "=" in value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE; give it in that form")
    return name, value


def _path_and_settings(text: str) -> tuple[str, str]:
    # The path and the settings may contain an equals sign, but only the settings begin with a
    # brace.
    path, brace, rest = text.partition("={")
    if not brace:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=JSON; give it in that form")
    return path, f"{{{rest}"


SINGLE: dict[str, dict[str, Any]] = {
    "Path": {"type": Path, "metavar": "PATH"},
    "str": {"metavar": "NAME"},
    "int": {"type": int, "metavar": "N"},
    "float": {"type": float, "metavar": "X"},
    "bool": {"action": "store_true"},
    "Identity": {"nargs": 4, "metavar": ("ENCODER", "LAYER", "SAE", "SEED")},
}
PAIRS: dict[str, dict[str, Any]] = {
    "str, str": {"type": _pair, "metavar": "NAME=VALUE"},
    "Path, SaeTraining": {"type": _path_and_settings, "metavar": "PATH=JSON"},
}


def shown(verbs: dict[str, str]) -> str:
    """Return verbs and their descriptions as lines of at most 100 characters."""
    width = max(map(len, verbs)) + 4
    lines = []
    for verb, text in verbs.items():
        first, *others = textwrap.wrap(text, 100 - width)
        lines += [f"  {verb:<{width - 2}}{first}", *(" " * width + line for line in others)]
    return "\n".join(lines)


def parse(parser: Parser, words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that `words` give, by name. Omitted arguments are not included.

    Raises
    ------
    UsageError
        If an option is unknown, missing or malformed. The message is one sentence.
    """
    # A misspelt option is reported here, before argparse reports the correct option as missing.
    known = parser._option_string_actions
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            parser.error(f"there is no option {option}{nearest(option, list(known))}")
    return vars(parser.parse_args(words))

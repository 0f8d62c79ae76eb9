"""A mutation check: measure the share of small changes of the code that make a unit test fail.

    python benchmarks/check_mutants.py [--count 200] [--seed 0] [--results FILE] [--survivors]

A mutant is the package with one small change: another operator, a number one larger or smaller, a
negated condition. Cosmic Ray's operators make the mutants. The script draws places in `sae/`,
`analysis/` and `dicom/` by the seed, in proportion to the lines of each folder, and makes one
mutant at each place. Two kinds of code have no mutants: `sae/kernels/`, which needs a GPU, and
annotations of functions, which are not evaluated.

The tests of these folders and of the configuration first run once on the unchanged code, and
coverage records the lines that each test executes. A test that fails in this run is printed and not
used. As a control, the unchanged code then runs with the tests of one mutant, the one with the most
tests. If one of these tests fails, the script ends with a message, since it would also fail for the
mutants and count them as killed.

Each mutant then runs in its own process with the tests that execute its line, the fastest first,
until one fails. A mutant outside all functions runs with all tests that execute its module. If the
tests of a mutant take more than MOST seconds together, only the fastest are used. The share of
killed mutants is then a lower bound. A mutant is killed if a test fails. It has timed out, which
counts as killed, if its tests take longer than TIMES their usual time plus SPARE seconds.

The script prints the mutants that survive, with file, line and change, and the share of killed
mutants. It ends with status 1 if this share is below GOAL. With `--results`, each verdict is added
to a file of JSON lines, and a second call continues after the verdicts in that file. With
`--survivors`, only the mutants that survive according to that file run again, in the present code.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosmic_ray.operators.operator import Operator
    from parso.tree import NodeOrLeaf

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/mammo_sae")
LIBRARIES = ROOT / ".mutants"
FOLDERS = ("sae", "analysis", "dicom")
WITHOUT = PACKAGE / "sae/kernels"
CONFIGURATION = ["tests/test_config.py", "tests/test_config_advice.py", "tests/test_settings.py"]
# Imported once, before the processes of the mutants fork. No module of the project is among them.
HEAVY = ["torch", "pandas", "scipy.stats", "sklearn.linear_model", "xarray", "zarr", "pyarrow"]
HEAVY += ["pydantic", "pydicom", "hypothesis", "matplotlib", "pytest"]
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
OPTIONS += ["-m", "not workflow and not soak and not gpu"]
MOST, TIMES, SPARE = 30, 10, 60
NO_TEST = 5  # pytest's exit status if no test was found
GOAL = 0.85


@dataclass(frozen=True)
class Mutant:
    """One change of one module: an operator of Cosmic Ray at its n-th occurrence."""

    module: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str


@dataclass
class Measured:
    """The result of the run on the unchanged code: each test's seconds, and each line's tests."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    failed: set[str] = field(default_factory=set)
    tests: dict[str, dict[int, set[str]]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="how many mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a file of verdicts, one JSON object a line")
    parser.add_argument(
        "--survivors", action="store_true", help="run only the survivors of --results"
    )
    arguments = parser.parse_args()
    if arguments.survivors and not arguments.results:
        parser.error("--survivors needs --results with the verdicts of an earlier call")
    results = arguments.results and arguments.results.resolve()
    install()
    earlier = read(results)
    if arguments.survivors:
        drawn = [found_again(mutant) for mutant, told in earlier.items() if told == "survived"]
        if not drawn:
            sys.exit(f"{results} has no mutant that survived")
        earlier = {}
    else:
        drawn = draw(arguments.count, arguments.seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        hidden = shutil.ignore_patterns(".*", "__pycache__", "results", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=hidden)
        os.chdir(tree)
        sys.path.insert(0, str(tree / "src"))
        os.environ["PYTHONPATH"] = str(tree / "src")
        measured = measure(Path(folder) / "measured.json")
        check_control(drawn, measured)
        verdicts = {}
        for mutant in drawn:
            verdicts[mutant] = earlier.get(mutant) or judge(mutant, measured)
            told = json.dumps({"verdict": verdicts[mutant], **asdict(mutant)})
            if results and mutant not in earlier:
                with results.open("a") as stream:
                    stream.write(told + "\n")
    report(verdicts)


def install() -> None:
    """Install the libraries of this check into a folder of their own, once."""
    if not (LIBRARIES / "installed").exists():
        requirements = Path(__file__).with_name("requirements-mutants.txt")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        places = ["--target", str(LIBRARIES), "--requirement", str(requirements)]
        subprocess.run([*pip, *places], check=True)
        (LIBRARIES / "installed").touch()
    # At the end of the path, so that the project's version of a library is imported first.
    sys.path.append(str(LIBRARIES))


def read(path: Path | None) -> dict[Mutant, str]:
    """Return the last verdict of each mutant in a file of verdicts."""
    verdicts = {}
    for line in path.read_text().splitlines() if path and path.exists() else ():
        row = json.loads(line)
        verdict = row.pop("verdict")
        verdicts[Mutant(**row)] = verdict
    return verdicts


def draw(count: int, seed: int) -> list[Mutant]:
    """Draw mutants, at most one per place, in proportion to the lines of each folder."""
    generator = random.Random(seed)
    modules = {folder: modules_of(folder) for folder in FOLDERS}
    lines = {
        folder: sum(len((ROOT / path).read_text().splitlines()) for path in paths)
        for folder, paths in modules.items()
    }
    drawn = []
    for number, folder in enumerate(FOLDERS):
        before = sum(lines[earlier] for earlier in FOLDERS[:number])
        upto = [
            round(count * part / sum(lines.values())) for part in (before, before + lines[folder])
        ]
        found = [(path, *place) for path in modules[folder] for place in places(path).items()]
        generator.shuffle(found)
        mutants = (change(path, line, *generator.choice(made)) for path, (line, _), made in found)
        drawn += islice((mutant for mutant in mutants if mutant), upto[1] - upto[0])
    generator.shuffle(drawn)  # so that the first verdicts are of all folders
    return drawn


def modules_of(folder: str) -> list[Path]:
    paths = sorted((ROOT / PACKAGE / folder).rglob("*.py"))
    paths = [path.relative_to(ROOT) for path in paths]
    return [path for path in paths if WITHOUT not in path.parents]


@cache
def operators() -> dict[str, Operator]:
    """Return Cosmic Ray's operators that need no arguments, by name."""
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    return {name: provider[name]() for name in provider if not provider[name].arguments()}


@cache
def places(path: Path) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """Return the operators and occurrences that change a module, by the place (line, column)."""
    from cosmic_ray.ast import ast_nodes, get_ast

    tree = get_ast((ROOT / path).read_text())
    seen: Counter[str] = Counter()
    found = defaultdict(list)
    for node in ast_nodes(tree):
        for name, operator in operators().items():
            for start, _ in operator.mutation_positions(node):
                if not annotates(node) and not of_types_alone(node):
                    found[start].append((name, seen[name]))
                seen[name] += 1
    return found


def annotates(node: NodeOrLeaf) -> bool:
    """Return whether a node of a parso tree is in an annotation of a function or its variables."""
    while node.parent is not None:
        parent = node.parent
        if parent.type == "tfpdef" and node is parent.children[-1]:
            return True
        if parent.type == "funcdef" and node is parent.annotation:
            return True
        if parent.type == "annassign" and node is parent.children[1]:
            return parent.search_ancestor("funcdef", "classdef").type == "funcdef"
        node = parent
    return False


def of_types_alone(node: NodeOrLeaf) -> bool:
    """Return whether a node is the statement `if TYPE_CHECKING`, whose imports never run."""
    return node.type == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING"


def change(path: Path, line: int, name: str, occurrence: int) -> Mutant | None:
    """Make a mutant; None if the changed code is not valid Python or is equal to the original."""
    code = (ROOT / path).read_text()
    changed = mutated(code, name, occurrence)
    try:
        same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(code))
    except SyntaxError:
        return None
    differing = difflib.ndiff(code.splitlines(), changed.splitlines())
    sides = {"-": [], "+": []}
    for text in differing:
        if text[0] in sides:
            sides[text[0]].append(text[2:].strip())
    before, after = (" ".join(side) for side in sides.values())
    return None if same else Mutant(str(path), line, name, occurrence, before, after)


def mutated(code: str, name: str, occurrence: int) -> str:
    from cosmic_ray.mutating import mutate_code

    return mutate_code(code, operators()[name], occurrence)


def found_again(mutant: Mutant) -> Mutant:
    """Return a mutant of an earlier version of the code, at its place in the present code."""
    path = Path(mutant.module)
    same = [
        made
        for (line, _), changes in places(path).items()
        for name, occurrence in changes
        if name == mutant.operator
        and (made := change(path, line, name, occurrence))
        and (made.before, made.after) == (mutant.before, mutant.after)
    ]
    if not same:
        sys.exit(f"{path}: no longer has the line {mutant.before!r}; draw again")
    return min(same, key=lambda made: abs(made.line - mutant.line))


def measure(path: Path) -> Measured:
    """Run the tests on the unchanged code in their own process; return the lines they execute."""

    def run() -> int:
        import coverage
        import pytest

        measured = Measured()
        recorder = coverage.Coverage(data_file=None, include=f"{PACKAGE.resolve()}/*")

        class Contexts:
            @pytest.hookimpl(hookwrapper=True)
            def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
                # A fixture of a module runs once, in the first test that needs it.
                recorder.switch_context(item.nodeid.split("::")[0])
                yield

            @pytest.hookimpl(hookwrapper=True)
            def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
                # A result that an earlier test left in a cache would hide the lines of this test.
                forget_caches()
                recorder.switch_context(item.nodeid)
                yield

            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                measured.seconds[report.nodeid] += report.duration
                if report.outcome != "passed":
                    measured.failed.add(report.nodeid)

        recorder.start()
        folders = [f"tests/{folder}" for folder in FOLDERS]
        pytest.main([*OPTIONS, *folders, *CONFIGURATION], plugins=[Contexts()])
        recorder.stop()
        data = recorder.get_data()
        lines = {
            str(Path(file).relative_to(Path.cwd())): data.contexts_by_lineno(file)
            for file in data.measured_files()
        }
        seconds, failed = dict(measured.seconds), sorted(measured.failed)
        path.write_text(json.dumps({"seconds": seconds, "failed": failed, "tests": lines}))
        return 0

    began = time.monotonic()
    apart(run, None)
    measured = Measured(**json.loads(path.read_text()))
    print(f"{len(measured.seconds)} tests measured in {time.monotonic() - began:.0f} s", flush=True)
    for test in measured.failed:
        print(f"not used, as it does not pass without a change: {test}")
        del measured.seconds[test]
    return measured


def forget_caches() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("mammo_sae."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def check_control(drawn: list[Mutant], measured: Measured) -> None:
    """End with a message if the unchanged code fails the tests of a drawn mutant."""
    mutant = max(drawn, key=lambda mutant: len(tests_of(mutant, measured)))
    path, tests = Path(mutant.module), tests_of(mutant, measured)
    verdict = tried(path, path.read_text(), tests, measured)
    if verdict != "survived":
        sys.exit(f"control: {verdict} without a change; set DEBUG=1 to see what the tests print")
    print(f"control: {len(tests)} tests pass without a change", flush=True)


def judge(mutant: Mutant, measured: Measured) -> str:
    """Run the tests of a mutant, print the verdict and return it."""
    tests = tests_of(mutant, measured)
    path = Path(mutant.module)
    changed = mutated(path.read_text(), mutant.operator, mutant.occurrence)
    began = time.monotonic()
    verdict = tried(path, changed, tests, measured)
    print(
        f"{verdict} ({len(tests)} tests, {time.monotonic() - began:.0f} s) "
        f"{path.relative_to(PACKAGE)}:{mutant.line}: {mutant.before}  ->  {mutant.after}",
        flush=True,
    )
    return verdict


def tried(path: Path, changed: str, tests: list[str], measured: Measured) -> str:
    """Run tests with changed code in a module, restore the code and return the verdict."""
    code = path.read_text()
    limit = TIMES * sum(measured.seconds[test] for test in tests) + SPARE

    def run() -> int:
        import pytest

        place = {test: number for number, test in enumerate(tests)}

        class Chosen:
            def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
                items[:] = sorted(
                    (item for item in items if item.nodeid in place),
                    key=lambda item: place[item.nodeid],
                )

        files = dict.fromkeys(test.split("::")[0] for test in tests)
        return pytest.main([*OPTIONS, "-x", *files], plugins=[Chosen()])

    path.write_text(changed)
    forget_compiled(path)
    status = apart(run, limit) if tests else 0
    path.write_text(code)
    forget_compiled(path)
    if status == NO_TEST:
        sys.exit(f"pytest found none of the tests {tests[:3]}")
    return "timed out" if status is None else "killed" if status else "survived"


def forget_compiled(path: Path) -> None:
    # Python recognises old compiled code by file size and time in seconds. Two mutants may have the
    # same size and time.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def tests_of(mutant: Mutant, measured: Measured) -> list[str]:
    """Return the tests that execute a mutant's line, the fastest first."""
    contexts = {
        int(line): set(told) for line, told in measured.tests.get(mutant.module, {}).items()
    }
    lines = statement(Path(mutant.module), mutant.line)
    executed = set().union(*(contexts.get(line, set()) for line in lines))
    if "" in executed:  # by an import
        executed = set().union(*contexts.values())
        if executed == {""}:
            executed = {f"tests/{mutant.module.split('/')[2]}", *CONFIGURATION}
    files = tuple(f"{told}{'::' if told.endswith('.py') else '/'}" for told in executed - {""})
    tests = [test for test in measured.seconds if test in executed or test.startswith(files)]
    tests.sort(key=lambda test: measured.seconds[test])
    spent = accumulate(measured.seconds[test] for test in tests)
    tests = [test for test, seconds in zip(tests, spent, strict=True) if seconds <= MOST] or tests[
        :1
    ]
    # File by file, so that the fixtures of a file are made once.
    whole: Counter[str] = Counter()
    for test in tests:
        whole[test.split("::")[0]] += measured.seconds[test]
    return sorted(tests, key=lambda test: (whole[test.split("::")[0]], measured.seconds[test]))


def statement(path: Path, line: int) -> range:
    """Return the lines of the innermost statement at a line.

    For a compound statement these are only the lines of its head.
    """
    spans = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            if first <= line <= last:
                spans.append(range(first, last + 1))
    return max(spans, key=lambda span: span.start)


def apart(run: Callable[[], int], limit: float | None) -> int | None:
    """Run a function in its own process; return its exit status, or None if it takes too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        status = 1
        with suppress(BaseException):
            if "DEBUG" not in os.environ:
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, 1)
                os.dup2(silence, 2)
            status = int(run())
        os._exit(status)
    ends = None if limit is None else time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if ends is not None and time.monotonic() > ends:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests started and left
    return os.waitstatus_to_exitcode(status)


def report(verdicts: dict[Mutant, str]) -> None:
    """Print the survivors and the killed share; end with status 1 if this share is too small."""
    count = Counter(verdicts.values())
    print(f"\nsurvived: {count['survived']}")
    for mutant, verdict in verdicts.items():
        if verdict == "survived":
            where = f"{Path(mutant.module).relative_to(PACKAGE)}:{mutant.line}"
            print(f"{where}  {mutant.operator}\n  - {mutant.before}\n  + {mutant.after}")
    share = (count["killed"] + count["timed out"]) / len(verdicts)
    print(
        f"\ndrawn {len(verdicts)}, killed {count['killed']}, timed out {count['timed out']}, "
        f"survived {count['survived']}: {share:.1%} killed, at least {GOAL:.0%} wanted"
    )
    sys.exit(share < GOAL)


if __name__ == "__main__":
    main()

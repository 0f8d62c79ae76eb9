"""Digests that show whether a step's code has changed: syntax trees of modules, pins of packages.

This module is separate from `mammo_sae.provenance`, which every step imports, so that an edit of
this file makes nothing stale.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "mammo_sae"
# Distributions whose name differs from the name of their module.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# Distributions that affect results although this package does not import them.
COMPANIONS = {
    "pydicom": (
        "pyjpegls",
        "pylibjpeg",
        "pylibjpeg-libjpeg",
        "pylibjpeg-openjpeg",
        "python-gdcm",
    ),
    "zarr": ("numcodecs", "zarrs"),
}
# Distributions that can't change a result: checks of settings, progress bars.
INERT = {"pydantic", "tqdm"}
SOURCE = Path(__file__).resolve().parent


def module_path(module: str) -> Path | None:
    """Return the file of `module`, a dotted name, or None if there is no such module.

    The module belongs to this package, or to a package that extends this one.
    """
    top, *parts = module.split(".")
    root = SOURCE if top == PACKAGE else _other_package(top)
    if root is None or root.is_file():
        return None if parts else root
    package = root.joinpath(*parts, "__init__.py")
    if package.is_file():
        return package
    plain = root.joinpath(*parts).with_suffix(".py") if parts else None
    return plain if plain is not None and plain.is_file() else None


@cache
def _other_package(top: str) -> Path | None:
    """Return the folder of a top-level package, or the file of a top-level module."""
    spec = find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


@cache
def import_closure(*modules: str) -> tuple[str, ...]:
    """Return the sorted names of `modules` and all modules of this package that they import.

    For a module of another package that extends this one, the modules of that package which it
    imports are included too.

    Imports are read from the syntax tree, also inside functions, without running code. Parent
    packages count, because importing a module runs their `__init__`. Imports under
    `if TYPE_CHECKING` at the top of a module never run and do not count.

    Raises
    ------
    ModuleNotFoundError
        If one of `modules` is not a module.
    """
    for module in modules:
        if module_path(module) is None:
            raise ModuleNotFoundError(f"no module {module}")
    seen: set[str] = set()
    pending = [*modules]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        pending.extend(_imports(name))
    return tuple(sorted(seen))


@cache
def code_digest(*modules: str) -> str:
    """Return a digest of the code of `modules`: the syntax trees of their import closure.

    Comments, docstrings, formatting and file times are not included, so an edit of these makes no
    result stale.
    """
    digest = hashlib.sha256()
    for name in import_closure(*modules):
        digest.update(f"{name}\n{_tree_digest(name)}\n".encode())
    return digest.hexdigest()[:32]


@cache
def packages(*modules: str) -> tuple[str, ...]:
    """Return the distributions on which the results of `modules` may depend, sorted.

    These are the distributions that the import closure imports, and the distributions that these
    use to decode images and chunks.
    """
    found: set[str] = set()
    for name in import_closure(*modules):
        for node in _statements(_tree(name)):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    tops = {name.split(".")[0] for name in import_closure(*modules)}
    found -= {*tops, *INERT, *sys.stdlib_module_names}
    found.update(*(COMPANIONS.get(name, ()) for name in tuple(found)))
    return tuple(sorted(_normal(DISTRIBUTIONS.get(name, name)) for name in found))


def read_pins(constraints: Path) -> dict[str, str]:
    """Return distribution -> version from a file of lines `name==version`."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    pins = (line.partition("==") for line in lines if "==" in line)
    return {_normal(name): version for name, _, version in pins}


def code_parts(modules: Sequence[str], pins: Mapping[str, str]) -> dict[str, str]:
    """Return the parts that decide whether results of `modules` are current, as part -> digest.

    The parts are the modules of the import closure with the digests of their syntax trees, and the
    packages with their pinned versions. With the separate parts a message can name what changed.
    The versions are those in the project's list of pins and not those on this machine, because the
    step may run on another machine.
    """
    parts = {name: _tree_digest(name)[:16] for name in import_closure(*modules)}
    return parts | {name: pins[name] for name in packages(*modules) if name in pins}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def _tree(module: str) -> ast.Module:
    """Return the syntax tree of a module, without docstrings and without imports for types.

    Every step imports the package itself. Its statements that offer the Python API to callers
    outside of the package are left out, because no step uses them.
    """
    path = module_path(module)
    assert path is not None
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    tree.body = [node for node in tree.body if not _is_for_types(node)]
    if module == PACKAGE:
        tree.body = [node for node in tree.body if not _offers_the_api(node)]
    _remove_docstrings(tree)
    return tree


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the module and all its statements, also inside other statements.

    Expressions are left out. They are most nodes of a tree and hold neither imports nor docstrings.
    """
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending.extend(getattr(node, name, ()))


def _is_for_types(node: ast.stmt) -> bool:
    """Return whether a statement is `if TYPE_CHECKING` without `else`, which never runs."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        and not node.orelse
    )


def _offers_the_api(node: ast.stmt) -> bool:
    """Return whether a statement of the package's `__init__` only serves the Python API."""
    if isinstance(node, ast.FunctionDef):
        return node.name in {"__getattr__", "__dir__"}
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets] == ["__all__"]
    return isinstance(node, ast.ImportFrom) and node.module == "typing"


@cache
def _tree_digest(module: str) -> str:
    return hashlib.sha256(ast.dump(_tree(module), include_attributes=False).encode()).hexdigest()


def _remove_docstrings(tree: ast.Module) -> None:
    for node in _statements(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]


def _imports(module: str) -> set[str]:
    found: set[str] = set()
    path = module_path(module)
    assert path is not None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            found.add(base)
            # `from package import name` imports a module when `name` is one.
            found.update(f"{base}.{alias.name}" for alias in node.names)
    tops = {PACKAGE, module.split(".")[0]}
    ours = {name for name in found if name.split(".")[0] in tops}
    parents = {
        ".".join(name.split(".")[:n]) for name in ours for n in range(1, name.count(".") + 1)
    }
    own_parents = {".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)}
    return {name for name in ours | parents | own_parents if module_path(name) is not None}

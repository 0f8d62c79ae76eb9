"""mammo-sae shows what a mammography foundation model has learnt. Each step is a function.

`open`, `Run` and `Sae` are the Python API for a finished run (docs/api.md). They are imported when
they are first used, so that `import mammo_sae` is quick.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mammo_sae.library.run import Run, open
    from mammo_sae.library.sae import Sae

__all__ = ["Run", "Sae", "open"]


def __getattr__(name: str) -> object:
    """Return a name of the Python API (PEP 562)."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Steps import this module too. A name in a string keeps the API out of what they import.
    where = "mammo_sae.library.sae" if name == "Sae" else "mammo_sae.library.run"
    return getattr(import_module(where), name)


def __dir__() -> list[str]:
    """Return the names of the module, with those that are not imported yet."""
    return sorted({*globals(), *__all__})

"""Errors meant for the person at the keyboard."""

from __future__ import annotations


class InputError(Exception):
    """Something given to a step is wrong.

    The message is one sentence: what is wrong, where (file, key, row), what to do.
    The command line prints it alone, without a traceback, and exits with 1.
    """


class StoreError(InputError):
    """A store is missing, damaged, or not the one its manifest describes."""

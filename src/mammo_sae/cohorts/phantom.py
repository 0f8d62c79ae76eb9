"""The phantom's archive, which has the form of VinDr-Mammo."""

from __future__ import annotations

from mammo_sae.cohorts.vindr import VindrReader


class PhantomReader(VindrReader):
    """A part of the phantom's archive, with the splits that it says."""

    simulated = True


READER = PhantomReader

"""Reader of the phantom's archive, which has the layout of VinDr-Mammo."""

from __future__ import annotations

from mammo_sae.cohorts.vindr import VindrReader


class PhantomReader(VindrReader):
    """A part of the phantom's archive. Its tables contain the splits."""

    simulated = True


READER = PhantomReader

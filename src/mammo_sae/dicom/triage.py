"""Which images enter a cohort's stores, which do so with a warning, and which are left out."""

from __future__ import annotations

from dataclasses import dataclass

from mammo_sae.dicom.breast import is_on_the_right
from mammo_sae.dicom.canonical import Canonical
from mammo_sae.dicom.header import Header
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import TriageSettings


@dataclass(frozen=True)
class Expected:
    """What the cohort's table says about an image: L or R, CC or MLO."""

    side: str
    view: str


def judge_header(header: Header, expected: Expected, policy: TriageSettings) -> list[Reason]:
    """Return what is found about an image from its header, and is no reason to leave it out.

    Raises
    ------
    Refusal
        With the first reason whose policy is `refuse`.
    """
    taken = header.acquisition
    found = {
        Reason.MODALITY: taken.modality not in {None, "MG"},
        Reason.FOR_PROCESSING: taken.for_processing,
        Reason.TOMOSYNTHESIS: taken.tomosynthesis,
        Reason.PARTIAL_VIEW: taken.partial,
        Reason.VIEW: taken.view not in {None, expected.view},
        Reason.SIDE: taken.side not in {None, expected.side},
        Reason.IMPLANT: taken.implant,
        Reason.IMPLANT_DISPLACED: taken.implant_displaced,
        Reason.PRESENTATION: header.contradictory,
        **dict.fromkeys(sorted(taken.special | header.notices, key=lambda r: r.code), True),
    }
    return _apply(found, policy)


def judge_image(canonical: Canonical, expected: Expected, policy: TriageSettings) -> list[Reason]:
    """Return what is found about an image from its pixels; else as `judge_header`."""
    empty = not canonical.breast.any()
    geometry = canonical.geometry
    # Without the padding, which always lies on the right.
    width = round(geometry.offset_x + geometry.scale_x * (geometry.crop[2] - geometry.crop[0]))
    on_the_right = geometry.flipped != is_on_the_right(canonical.breast[:, :width])
    found = {
        Reason.NO_BREAST: empty,
        Reason.RESIZED: canonical.resized,
        Reason.MIRRORED: not empty and on_the_right != (expected.side == "R"),
        **dict.fromkeys(sorted(canonical.notices, key=lambda r: r.code), True),
    }
    return _apply(found, policy)


def _apply(found: dict[Reason, bool], policy: TriageSettings) -> list[Reason]:
    reasons = [reason for reason, present in found.items() if present]
    for reason in reasons:
        if getattr(policy, reason.code) == "refuse":
            raise Refusal(reason)
    return reasons

"""Decides which images enter a cohort's stores, with or without a warning, or are left out."""

from __future__ import annotations

from dataclasses import dataclass

from mammo_sae.dicom.canonical import Canonical
from mammo_sae.dicom.header import Header
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import TriageSettings


@dataclass(frozen=True)
class Expected:
    """The side (L or R) and view (CC or MLO) of an image in the cohort's table."""

    side: str
    view: str


def judge_header(header: Header, expected: Expected, policy: TriageSettings) -> list[Reason]:
    """Return the reasons found in an image's header that the policy lets pass.

    Raises
    ------
    Refusal
        For the first reason whose policy is `refuse`.
    """
    taken = header.acquisition
    found = {
        Reason.MODALITY: taken.modality not in {None, "MG"},
        Reason.FOR_PROCESSING: taken.for_processing,
        Reason.TOMOSYNTHESIS: taken.tomosynthesis,
        Reason.PARTIAL_VIEW: taken.partial,
        Reason.VIEW: taken.view not in {None, expected.view},
        Reason.SIDE: taken.side not in {None, expected.side},
        Reason.AMBIGUOUS: taken.ambiguous,
        Reason.ORIENTATION: not _is_upright(taken.orientation, taken.side or expected.side),
        Reason.IMPLANT: taken.implant,
        Reason.IMPLANT_DISPLACED: taken.implant_displaced,
        Reason.PRESENTATION: header.contradictory,
        Reason.LINEAR: taken.linear and not taken.for_processing,
        **dict.fromkeys(sorted(taken.special | header.notices, key=lambda r: r.code), True),
    }
    return _apply(found, policy)


def judge_image(canonical: Canonical, expected: Expected, policy: TriageSettings) -> list[Reason]:
    """Return the reasons found in an image's pixels that the policy lets pass.

    Raises
    ------
    Refusal
        For the first reason whose policy is `refuse`.
    """
    empty = not canonical.breast.any()
    found = {
        Reason.NO_BREAST: empty,
        Reason.RESIZED: canonical.resized,
        Reason.MIRRORED: not empty and canonical.lies_on_the_right != (expected.side == "R"),
        **dict.fromkeys(sorted(canonical.notices, key=lambda r: r.code), True),
    }
    return _apply(found, policy)


def _is_upright(orientation: tuple[str, ...], side: str) -> bool:
    """Return whether `orientation` is that of an upright image, or is not given.

    Down the columns, an upright oblique view goes towards the feet (F). An upright cranio-caudal
    view goes towards the middle of the body. So PS3.3 C.7.6.1.1.1 gives `A\\R` for the left breast
    and `P\\L` for the right breast.
    """
    downwards = orientation[1] if len(orientation) == 2 else ""
    return "H" not in downwards and side not in downwards


def _apply(found: dict[Reason, bool], policy: TriageSettings) -> list[Reason]:
    reasons = [reason for reason, present in found.items() if present]
    for reason in reasons:
        if getattr(policy, reason.code) == "refuse":
            raise Refusal(reason)
    return reasons

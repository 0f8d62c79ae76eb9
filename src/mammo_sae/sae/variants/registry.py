"""Which class trains which variant."""

from __future__ import annotations

from mammo_sae.sae import settings as s
from mammo_sae.sae.variants.archetypal import Archetypal
from mammo_sae.sae.variants.base import Start, Trainee
from mammo_sae.sae.variants.batch_topk import BatchTopK
from mammo_sae.sae.variants.gated import Gated
from mammo_sae.sae.variants.jumprelu import JumpReLU
from mammo_sae.sae.variants.l1 import L1
from mammo_sae.sae.variants.mammo_sae import MammoSae
from mammo_sae.sae.variants.matryoshka import Matryoshka
from mammo_sae.sae.variants.topk import TopK

TRAINEES: dict[type, type[Trainee]] = {
    s.TopKVariant: TopK,
    s.BatchTopKVariant: BatchTopK,
    s.MatryoshkaVariant: Matryoshka,
    s.L1Variant: L1,
    s.MammoSaeVariant: MammoSae,
    s.JumpReLUVariant: JumpReLU,
    s.GatedVariant: Gated,
    s.ArchetypalVariant: Archetypal,
}


def trainee(settings: s.SaeTraining, start: Start) -> Trainee:
    """Return a new SAE in training, at its initial weights."""
    return TRAINEES[type(settings.variant)](settings, start)


def is_raw(settings: s.SaeTraining) -> bool:
    """Return whether a variant sees embeddings neither centred nor scaled."""
    return TRAINEES[type(settings.variant)].raw

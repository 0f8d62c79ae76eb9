"""The plan of a patient, made before any image is drawn: density, findings and artefacts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from mammo_sae.phantom.settings import Artefact, Component, Density, PhantomPartSettings
from mammo_sae.phantom.streams import random_stream

Side = Literal["L", "R"]
View = Literal["CC", "MLO"]

VIEWS: tuple[View, ...] = ("CC", "MLO")


@dataclass(frozen=True)
class LesionSite:
    """The position of a lesion in a breast.

    `depth` is the distance from the chest wall, as a share of the distance between chest wall and
    nipple. `offsets` are the distances from the axis of the breast in each view (positive
    downwards), as shares of that half of the breast. As for a real lesion, both views have the same
    depth, and the two offsets are different coordinates. They are drawn independently.
    """

    depth: float
    offsets: dict[View, float]


@dataclass(frozen=True)
class Mass:
    """A mass: radius in pixels of the image, peak contrast in display units."""

    side: Side
    kind: Literal["oval", "spiculated"]
    radius: float
    contrast: float
    birads: int
    site: LesionSite


@dataclass(frozen=True)
class Cluster:
    """A calcification cluster: radius in pixels of the image, peak contrast of a speck."""

    side: Side
    specks: int
    radius: float
    contrast: float
    birads: int
    site: LesionSite


@dataclass(frozen=True)
class Patient:
    """The properties that all views of a patient share."""

    part: str
    number: int
    sides: tuple[Side, ...]
    age: int
    density: Density
    mass: Mass | None
    cluster: Cluster | None
    artefacts: frozenset[Artefact]

    def breast_mass(self, side: Side) -> Mass | None:
        """Return the mass of the breast on `side`, if there is one."""
        return self.mass if self.mass is not None and self.mass.side == side else None

    def breast_cluster(self, side: Side) -> Cluster | None:
        """Return the calcification cluster of the breast on `side`, if there is one."""
        return self.cluster if self.cluster is not None and self.cluster.side == side else None

    def has(self, component: Component) -> bool:
        """Return whether the patient has a finding or an artefact."""
        if component == "mass":
            return self.mass is not None
        if component == "suspicious_calcification":
            return self.cluster is not None
        return component in self.artefacts

    def breast_birads(self, side: Side) -> int:
        """Return the BI-RADS assessment of the breast's worst finding; 1 without findings."""
        findings = (self.breast_mass(side), self.breast_cluster(side))
        return max((finding.birads for finding in findings if finding is not None), default=1)


def conditional_probabilities(
    concept_rate: float, artefact_rate: float, odds_ratio: float
) -> tuple[float, float]:
    """Return P(C=1 | Y=0) and P(C=1 | Y=1) of the 2x2 table with these margins and odds ratio.

    They satisfy logit P(C=1 | Y) = a + log(odds_ratio) Y. `a` is chosen so that the rate of C does
    not depend on the odds ratio. Parts of the cohort then differ only in the association. The
    joint probability P(C=1, Y=1) is Plackett's (J Am Stat Assoc 60:516, 1965).
    """
    if odds_ratio == 1:
        return artefact_rate, artefact_rate
    excess = odds_ratio - 1
    total = 1 + (concept_rate + artefact_rate) * excess
    root = math.sqrt(total**2 - 4 * odds_ratio * excess * concept_rate * artefact_rate)
    both = (total - root) / (2 * excess)
    return (artefact_rate - both) / (1 - concept_rate), both / concept_rate


def plan_patient(settings: PhantomPartSettings, number: int) -> Patient:
    """Draw patient `number` of the part, independently of the other patients."""

    def stream(component: str) -> np.random.Generator:
        return random_stream(settings.seed, settings.part, number, component)

    def chance(component: str, probability: float) -> bool:
        return bool(stream(component).random() < probability)

    sides: tuple[Side, ...] = ("L", "R")
    if settings.breasts == "one":
        sides = ("L",) if chance("side", 0.5) else ("R",)

    prevalence = settings.prevalence
    has_mass = chance("mass", prevalence.mass)
    has_cluster = chance(
        "suspicious_calcification",
        conditional_probabilities(
            prevalence.mass, prevalence.suspicious_calcification, prevalence.odds_ratio
        )[has_mass],
    )
    confounders = settings.confounders
    present = has_mass if confounders.concept == "mass" else has_cluster
    rate = getattr(prevalence, confounders.concept)
    artefacts = frozenset(
        name
        for name, artefact in confounders.drawn.items()
        if chance(
            name, conditional_probabilities(rate, artefact.rate, artefact.odds_ratio)[present]
        )
    )
    return Patient(
        part=settings.part,
        number=number,
        sides=sides,
        age=int(stream("age").integers(40, 80)),
        density=_density(settings, stream("density")),
        mass=_mass(settings, stream("mass details"), sides) if has_mass else None,
        cluster=_cluster(settings, stream("cluster details"), sides) if has_cluster else None,
        artefacts=artefacts,
    )


def switched(settings: PhantomPartSettings, patient: Patient, component: Component) -> Patient:
    """Return the patient with one finding or artefact added, or removed if the patient has it.

    Everything else stays as it was planned. An added finding comes from the random stream of this
    finding, so it does not depend on whether the patient was planned with the finding.
    """

    def details(name: str) -> np.random.Generator:
        return random_stream(settings.seed, settings.part, patient.number, name)

    remove = patient.has(component)
    if component == "mass":
        mass = None if remove else _mass(settings, details("mass details"), patient.sides)
        return replace(patient, mass=mass)
    if component == "suspicious_calcification":
        cluster = None if remove else _cluster(settings, details("cluster details"), patient.sides)
        return replace(patient, cluster=cluster)
    return replace(patient, artefacts=patient.artefacts ^ {component})


def _density(settings: PhantomPartSettings, rng: np.random.Generator) -> Density:
    categories: tuple[Density, ...] = get_args(Density)
    weights = np.array([getattr(settings.density, category) for category in categories])
    return categories[rng.choice(len(weights), p=weights / weights.sum())]


def _site(rng: np.random.Generator) -> LesionSite:
    return LesionSite(
        depth=rng.uniform(0.25, 0.75),
        offsets={view: rng.uniform(-0.6, 0.6) for view in VIEWS},
    )


def _mass(settings: PhantomPartSettings, rng: np.random.Generator, sides: tuple[Side, ...]) -> Mass:
    side = sides[rng.integers(len(sides))]
    spiculated = rng.random() < settings.mass.spiculated
    return Mass(
        side=side,
        kind="spiculated" if spiculated else "oval",
        radius=rng.uniform(*settings.mass.radius) * settings.scale,
        contrast=rng.uniform(*settings.mass.contrast),
        birads=int(rng.integers(4, 6) if spiculated else rng.integers(3, 5)),
        site=_site(rng),
    )


def _cluster(
    settings: PhantomPartSettings, rng: np.random.Generator, sides: tuple[Side, ...]
) -> Cluster:
    fewest, most = settings.calcification.specks
    return Cluster(
        side=sides[rng.integers(len(sides))],
        specks=int(rng.integers(fewest, most + 1)),
        radius=rng.uniform(*settings.calcification.spread) * settings.scale,
        contrast=rng.uniform(*settings.calcification.contrast),
        birads=int(rng.integers(4, 6)),
        site=_site(rng),
    )

"""The methods of a run as a paragraph for a paper, written from its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mammo_sae.errors import counted


def paragraph(configuration: Mapping[str, Any]) -> str:
    """Return the methods in sentences. What the configuration does not have has no sentence."""
    return " ".join(_sentences(configuration))


def _sentences(configuration: Mapping[str, Any]) -> Iterator[str]:
    images = configuration.get("images")
    if images:
        yield (
            f"Images were brought to {images['height']} x {images['width']} pixels "
            f"(preprocessing {images['preprocessing']})."
        )
    encoders = configuration.get("encoders")
    if encoders:
        yield f"The encoders were {_listed([_encoder(*item) for item in encoders.items()])}."
    layers, saes = configuration.get("layers"), configuration.get("saes")
    if layers and saes:
        yield f"The layers were {_listed(layers)}."
        yield "The sparse autoencoders (SAEs) and their controls were:"
        yield f"{'; '.join(_sae(name, settings) for name, settings in saes.items())}."
    latents = configuration.get("latents")
    if latents:
        yield (
            f"Latents were ranked on the {latents['discovery']} split and tested on the "
            f"{latents['confirmation']} split, which has other patients."
        )
        yield (
            "Intervals of latents are percentile intervals of 95 % from "
            f"{counted(latents['bootstrap_draws'], 'bootstrap draw')} of patients, and q-values "
            "follow Benjamini and Hochberg."
        )
    confounds = configuration.get("confounds")
    if confounds:
        yield (
            f"The first {confounds['top_latents']} latents of each ranking were tested against "
            f"{_confounders(confounds)}, at a level of {confounds['alpha']}."
        )
    alignment = configuration.get("alignment")
    if alignment:
        yield (
            f"The location of the first {alignment['top_latents']} latents of each ranking was "
            "compared with the annotated lesions, with masks exchanged between patients and with "
            f"{counted(alignment['matched_latents'], 'random latent')} of equal firing rate each."
        )
    interventions = configuration.get("interventions")
    if interventions:
        yield (
            f"In interventions, the first k latents, for {len(interventions['top_k'])} values of "
            f"k, were removed or kept alone, beside "
            f"{counted(interventions['random_sets'], 'random set')} of the same size."
        )


def _confounders(confounds: Mapping[str, Any]) -> str:
    """Return the confounders in words. A key that is null stands for the cohort's own columns."""
    lists = [confounds["acquisition"], confounds["anatomical"]]
    named = [name.replace("_", " ") for names in lists for name in names or ()]
    parts = [f"the confounders {_listed(named)}"] if named else []
    for names, kind in zip(lists, ("acquisition", "anatomy"), strict=True):
        if names is None:
            parts.append(f"the cohort's columns of {kind}")
    return " and ".join(parts) or "no confounder"


def _encoder(name: str, settings: Mapping[str, Any]) -> str:
    base = settings.get("base")
    return f"{name} (fine-tuned from {base})" if base else name


def _sae(name: str, settings: Mapping[str, Any]) -> str:
    variant, layers = settings["variant"], settings.get("layers", {})
    sizes = {layer: own["latents"] for layer, own in layers.items() if "latents" in own}
    ks = {layer: own["variant"].get("k") for layer, own in layers.items() if own.get("variant")}
    parts = [f"variant {variant['name']}", f"{settings['latents']} latents{_own(sizes)}"]
    if "k" in variant:
        parts.append(f"k = {variant['k']}{_own(ks)}")
    seeds = [str(seed) for seed in settings["seeds"]]
    parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {_listed(seeds)}")
    only = settings.get("only") or {}
    for what in ("layers", "encoders"):
        if only.get(what):
            parts.append(f"{_listed(only[what])} alone")
    return f"{name} ({', '.join(parts)})"


def _own(values: Mapping[str, Any]) -> str:
    """Return the values of single layers in brackets."""
    said = [f"{layer}: {value}" for layer, value in values.items() if value is not None]
    return f" ({', '.join(said)})" if said else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""Every accepted configuration gives its figures and pages.

Configurations are drawn at random from the allowed settings. Each is refused with a sentence when
it is parsed, or all its figures, tables and pages are made. They are made from the tables of a
small run. The real analyses made these tables on cohorts with different missing data. Encoders,
layers, SAEs, seeds, splits, rankings and numbers of latents are those of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mammo_sae.analysis import ablation, alignment, confounds, effects, probes, reliance, truth
from mammo_sae.analysis import interventions as head_layer
from mammo_sae.analysis import latents as latents_step
from mammo_sae.analysis.settings import (
    AblationSettings,
    AlignmentSettings,
    ConfoundSettings,
    EffectSettings,
    InterventionSettings,
    LatentSettings,
    ProbesSettings,
    Ranking,
    Splice,
    TruthSettings,
)
from mammo_sae.config import Config, load_config
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.report import (
    ablation as ablation_figure,
)
from mammo_sae.report import (
    confounds as confounds_figure,
)
from mammo_sae.report import (
    effects as effects_figure,
)
from mammo_sae.report import (
    encoders,
    interventions,
    latents,
    layers,
    style,
    summary,
    sweep,
    table_page,
    training,
    verdicts,
)
from mammo_sae.report import (
    probes as probes_figure,
)
from mammo_sae.report import (
    table as table_step,
)
from mammo_sae.report import (
    truth as truth_figure,
)
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table, write_table
from responding import write_responses

CONCEPTS = ["mass", "suspicious_calcification"]
DRAWS = {"bootstrap_draws": 20, "permutation_draws": 99}
SPLITS = ("training", "validation", "test", "external")
TOP_K = (0, 1, 2, 5, 10, 24)


def _relabel(split: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["split"] == split, "mass"] = value
        return table

    return change


COHORTS = {
    "whole": lambda table: table,
    "no test split": lambda table: table.assign(split=table["split"].replace("test", "training")),
    "training alone": lambda table: table.assign(split="training"),
    "unlabelled in test": _relabel("test", pd.NA),
    "unlabelled in training": _relabel("training", pd.NA),
    "one class": _relabel("test", 1),
    "one patient and view": lambda table: table.assign(patient_id="0" * 16, view="CC"),
    "nothing varies": lambda table: table.assign(
        marker=0, paddle=0, manufacturer="A", density=pd.NA
    ),
}


@dataclass(frozen=True)
class Base:
    """A cohort's image table and the tables of one SAE at the head layer."""

    images: pd.DataFrame
    tables: dict[str, pd.DataFrame]


def _base(run: Any, change: Callable[[pd.DataFrame], pd.DataFrame], folder: Path) -> Base:
    reader = CodesReader(run.codes)
    rng = np.random.default_rng(0)
    latent_count, channels = reader.latents, reader.grid.channels
    atoms = torch.from_numpy(rng.normal(size=(latent_count, channels)).astype(np.float32))
    SparseAutoencoder(
        atoms.clone(), torch.zeros(latent_count), atoms, torch.zeros(channels), k=4
    ).save(folder / "sae.safetensors", folder / "sae.json")
    weight = rng.normal(size=(2, channels)).astype(np.float32)
    save_head(
        Head(weight, np.zeros(2, np.float32), tuple(CONCEPTS)),
        folder / "head.safetensors",
        folder / "head.json",
    )
    ids = reader.image_ids
    logits = [pd.DataFrame({"image_id": ids, "concept": c, "logit": rng.normal(size=len(ids))})
              for c in CONCEPTS]  # fmt: skip
    write_table(pd.concat(logits), folder / "predictions.parquet")
    shape = (len(ids), reader.grid.rows, reader.grid.columns, channels)
    with create_embedding_store(
        folder / "0", folder / "0.json", image_ids=list(ids), grids=[reader.grid]
    ) as writer:
        writer.write({"head": rng.normal(size=shape).astype(np.float32)})
    with create_embedding_store(
        folder / "pooled", folder / "pooled.json", image_ids=list(ids),
        grids=[LayerGrid("pooled", channels, 1, 1, 0, 0.0, 0.0, 0)],
    ) as writer:  # fmt: skip
        writer.write({"pooled": rng.normal(size=(len(ids), 1, 1, channels)).astype(np.float32)})
    table = change(read_table(run.images))
    write_table(table, folder / "images.parquet")
    common = {"identity": run.identity, "images": folder / "images.parquet", "codes": run.codes}
    named = {"concepts": CONCEPTS, "image_stores": run.image_stores}
    place = {name: folder / f"{name}.parquet" for name in (
        *("latents", "alignment", "confounds", "truth", "probes", "interventions", "sweep"),
        *("effects", "ablation", "reliance", "responses"),
    )}  # fmt: skip
    after = {**common, "latents": place["latents"]}
    linear = {**after, "sae": folder / "sae.json", "head": folder, "concepts": CONCEPTS}
    latents_step.run(LatentSettings(**DRAWS), **common, concepts=CONCEPTS, output=place["latents"])
    alignment.run(
        AlignmentSettings(top_latents=4, **DRAWS),
        **after,
        **named,
        output=place["alignment"],
        by_size=folder / "alignment_by_size.parquet",
        regions=folder / "regions.parquet",
    )
    measured = {"measurements": [run.table("measurements")]}
    confounds.run(
        ConfoundSettings(top_latents=4, **DRAWS), **after, **named, **measured,
        output=place["confounds"],
    )  # fmt: skip
    truth.run(
        TruthSettings(), identity=run.identity, component="mass", confounds=place["confounds"],
        responses=write_responses(place["responses"], place["confounds"], {0: {"mass": 2.0}}),
        output=place["truth"],
    )  # fmt: skip
    probes.run(
        ProbesSettings(k=(1, 5), penalties=(0.01,), l1_penalties=(0.1,), bootstrap_draws=20),
        **common, concepts=CONCEPTS, embeddings=[folder / "0.json"], output=place["probes"],
    )  # fmt: skip
    head_layer.run(
        InterventionSettings(
            top_k=TOP_K, rankings=get_args(Ranking), splices=get_args(Splice), random_sets=2,
            bootstrap_draws=20,
        ),
        **linear, predictions=folder / "predictions.parquet",
        interventions=place["interventions"], sweep=place["sweep"],
    )  # fmt: skip
    effects.run(EffectSettings(bootstrap_draws=20), **linear, output=place["effects"])
    judged = {
        **linear, "predictions": folder / "predictions.parquet", "confounds": place["confounds"],
    }  # fmt: skip
    reliance.run(EffectSettings(bootstrap_draws=20), **judged, output=place["reliance"])
    ablation.run(
        AblationSettings(bootstrap_draws=20, random_sets=2), **judged, **measured,
        image_stores=run.image_stores, embeddings=[folder / "pooled.json"],
        output=place["ablation"],
    )  # fmt: skip
    return Base(table, {name: read_table(path) for name, path in place.items()})


@pytest.fixture(scope="module")
def bases(run, tmp_path_factory) -> Callable[[str], Base]:
    @cache
    def base(name: str) -> Base:
        return _base(run, COHORTS[name], tmp_path_factory.mktemp("base"))

    return base


NAMES = st.sampled_from(["pretrained", "finetuned", "a", "Mammo-CLIP_b5", "x" * 30])
SUBSET = {"min_size": 1, "unique": True}


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration; some break a rule on purpose."""
    base, *tuned = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    networks: dict[str, Any] = {base: {"kind": "pretrained"}}
    for name in tuned:
        networks[name] = {"kind": "finetuned", "base": base, "freeze": "blocks.4"}
    wrong = draw(st.sampled_from(["", "", "", "", "", "split", "twice", "inner", "truth"]))
    own = draw(st.booleans())
    one_split = st.sampled_from(SPLITS)
    splits = st.lists(one_split, min_size=1, max_size=3, unique=wrong != "twice")
    rankings = st.lists(st.sampled_from(get_args(Ranking)), **SUBSET)
    splices = st.lists(st.sampled_from(get_args(Splice)), **SUBSET)
    top_k = st.lists(st.sampled_from(TOP_K), **SUBSET)
    wanted = st.lists(st.sampled_from(["blocks.10", "blocks.14", "head", "pooled"]), **SUBSET)
    pair = st.lists(one_split, min_size=2, max_size=2, unique=wrong != "split")
    discovery, confirmation = draw(pair)
    two = {"discovery": discovery, "confirmation": confirmation}
    concepts = draw(
        st.sampled_from([CONCEPTS, CONCEPTS[:1], ["tumour", "suspicious_calcification"]])
    )
    cohort: dict[str, Any] = {"concepts": {name: CONCEPTS[i] for i, name in enumerate(concepts)}}
    if own:
        cohort |= {"kind": "table", "source": "in", "key_file": "key"}
    else:
        cohort |= {"kind": "phantom", "validation_share": 0.0 if wrong == "split" else 0.1}
    inner = [[], ["blocks.10"], ["blocks.14"], ["blocks.14", "blocks.10"]]
    return {
        "name": "drawn",
        "cohort": cohort,
        "encoders": networks,
        "layers": draw(wanted),
        "saes": {
            name: {"seeds": draw(st.sampled_from([[0], [3, 1]]))}
            for name in draw(st.lists(st.sampled_from(["topk", "l1", "wide-2"]), **SUBSET))
        },
        "latents": two,
        "alignment": {**two, "rankings": draw(rankings)},
        "confounds": {**two, "acquisition": draw(st.sampled_from([None, [], ["marker"]]))},
        "probes": {**two, "splits": draw(splits), "k": draw(st.sampled_from([[1], [1, 5]])),
                    "l1_penalties": draw(st.sampled_from([[], [0.1]]))},
        "interventions": {**two, "splits": draw(splits), "rankings": draw(rankings),
                          "splices": draw(splices), "top_k": draw(top_k)},
        "effects": {"splits": draw(splits)},
        "truth": {"concept": "mass" if wrong == "truth" else concepts[0]},
        "inner": {**two, "layers": ["head"] if wrong == "inner" else draw(st.sampled_from(inner)),
                  "rankings": draw(rankings), "splices": draw(splices),
                  "top_k": draw(top_k)},
        "report": {"latents": {"latents": draw(st.integers(1, 3)), "examples": 2}},
    }  # fmt: skip


@dataclass(frozen=True)
class Run:
    """The tables and files of a finished run, which the rules of the report read."""

    config: Config
    base: Base
    source: Any
    folder: Path
    concepts: list[str]

    def labelled(self, rows: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
        """Return rows for every encoder, layer of `layers`, SAE and seed, and every concept."""
        names = dict(zip(CONCEPTS, self.concepts, strict=False))
        if "concept" in rows:
            rows = rows[rows["concept"].isin(names)]
            rows = rows.assign(concept=rows["concept"].map(names))
        parts = [
            rows.assign(encoder=encoder, layer=layer, sae=sae, seed=number)
            for encoder in self.config.encoders
            for layer in layers
            for sae, chosen in self.config.saes.items()
            for number in chosen.seeds
        ]
        return pd.concat(parts, ignore_index=True)

    def in_splits(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows with the splits of the base named as the configuration uses them."""
        probed = self.config.latents
        rest = [s for s in SPLITS if s not in (probed.discovery, probed.confirmation)]
        names = dict(
            zip(
                ("training", "test", "external"),
                (probed.discovery, probed.confirmation, rest[0]),
                strict=True,
            )
        )
        return rows.assign(split=rows["split"].map(names))

    def scored(self, name: str, splits: tuple[str, ...]) -> pd.DataFrame:
        """Return a table's rows of `splits`. Splits without rows get rows with reasons."""
        rows = self.in_splits(self.base.tables[name])
        parts = []
        for split in splits:
            here = rows[rows["split"] == split]
            if here.empty and len(rows):
                here = rows[rows["split"] == rows["split"].iloc[0]].assign(
                    split=split, auroc=np.nan, reason=f"{split}: 0 positive images, fewer than 10"
                )
            parts.append(here)
        return pd.concat(parts, ignore_index=True)

    def edited(self) -> pd.DataFrame | None:
        """Return the table of interventions at the head and at inner layers, or None."""
        parts = []
        for layer in self.config.layers:
            at_head = layer == "head"
            if not at_head and layer not in self.config.inner.layers:
                continue
            asked: Any = self.config.interventions if at_head else self.config.inner
            splits = asked.splits if at_head else (asked.confirmation,)
            rows = self.scored("interventions", splits)
            rankings = (*asked.rankings, "class_union", "random")
            counts = (*asked.top_k, rows["k"].max())
            rows = rows[rows["ranking"].isin(rankings) & rows["splice"].isin(asked.splices)]
            parts.append(self.labelled(rows[rows["k"].isin(counts)], [layer]))
        return pd.concat(parts, ignore_index=True) if parts else None


def make(run: Run, pick: Callable[[list[Any]], Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the outputs that the rules of the report make for a run, as names and calls.

    Of figures that differ only in encoder, layer, SAE, seed or concept, one is drawn.
    """
    config, folder, base = run.config, run.folder, run.base
    sae, concept = pick(list(config.saes)), pick(run.concepts)
    encoder, layer = pick(list(config.encoders)), pick(config.layers)
    one = {"encoder": encoder, "layer": layer, "sae": sae, "seed": config.saes[sae].seeds[0]}
    written: dict[str, Path] = {}

    def write(name: str, rows: pd.DataFrame) -> Path:
        write_table(rows, folder / f"part_{name}.parquet")
        written[name] = folder / f"{name}.parquet"
        table_step.run(
            parts=[folder / f"part_{name}.parquet"],
            csv=folder / f"{name}.csv",
            parquet=written[name],
        )
        return written[name]

    def own(name: str) -> Path:
        rows = read_table(written[name])
        for key, value in one.items():
            rows = rows[rows[key] == value]
        write_table(rows, folder / f"own_{name}.parquet")
        return folder / f"own_{name}.parquet"

    for name in ("latents", "alignment", "confounds"):
        write(name, run.labelled(base.tables[name], config.layers))
    write("probes", run.labelled(run.scored("probes", config.probes.splits), config.layers))
    scores = [
        {"encoder": e, "concept": c, "split": s, "auroc": v, "auroc_low": v, "auroc_high": v,
         "auprc": v, "auprc_low": v, "auprc_high": v, "prevalence": 0.4,
         "reason": "" if v == v else "0 positive images, fewer than 10"}
        for e in config.encoders for c in run.concepts
        for s, v in ((config.latents.discovery, 0.8), (config.latents.confirmation, np.nan))
    ]  # fmt: skip
    write("encoders", pd.DataFrame(scores))
    seen = (base.images["split"] == "test").any()
    quality: dict[str, Any] = {"explained_variance": 0.9 if seen else np.nan, "dead_share": 0.1}
    quality |= {"explained_variance_pca": 0.8, "reason": ""} if seen else {"reason": "no image"}
    write("sae_quality", run.labelled(pd.DataFrame([quality]), config.layers))
    verdicts.run(
        **{name: written[name] for name in ("latents", "alignment", "confounds")},
        csv=folder / "verdicts.csv",
        parquet=folder / "verdicts.parquet",
    )
    output = folder / "figure.png"
    at_head = {}
    for name in ("ablation", "reliance") if "head" in config.layers else ():
        rows = run.in_splits(base.tables[name])
        at_head[name] = write(name, run.labelled(rows, ["head"]))
    yield "encoders", lambda: encoders.run(encoders=written["encoders"], output=output)
    yield (
        "summary",
        lambda: summary.run(
            encoders=written["encoders"],
            latents=written["latents"],
            verdicts=folder / "verdicts.parquet",
            bases={n: e.base for n, e in config.encoders.items() if e.kind == "finetuned"},
            split=config.latents.confirmation,
            **at_head,
            output=folder / "summary.html",
        ),
    )
    history = pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5], "error": [1.0, 0.4], "lr": 0.1})
    write_table(history.assign(explained_variance=0.5, dead_share=0.0), folder / "history.csv")
    yield "training", lambda: training.run(
        histories=[folder / "history.csv"] * len(config.layers),
        layers=config.layers, encoder_name=encoder, sae_name=sae, output=output,
    )  # fmt: skip
    yield "layers", lambda: layers.run(
        sae_quality=written["sae_quality"], latents=written["latents"],
        alignment=written["alignment"], confounds=written["confounds"], sae_name=sae,
        output=output,
    )  # fmt: skip
    yield (
        "probes",
        lambda: probes_figure.run(
            probes=written["probes"],
            sae_name=sae,
            split=config.shown_split("probes"),
            output=output,
        ),
    )
    yield "confounds", lambda: confounds_figure.run(
        latents=own("latents"), confounds=own("confounds"), concept=concept,
        min_kept=config.confounds.min_kept, output=output,
    )  # fmt: skip
    names = dict(zip(CONCEPTS, run.concepts, strict=False))
    write_table(run.in_splits(base.images).rename(columns=names), folder / "images.parquet")
    yield "latents", lambda: latents.run(
        config.report.latents, images=folder / "images.parquet",
        image_stores=run.source.image_stores, codes=run.source.codes, latents=own("latents"),
        alignment=own("alignment"), confounds=own("confounds"), concept=concept,
        split=config.latents.confirmation, output=output,
    )  # fmt: skip
    edited = run.edited()
    if edited is not None:
        write("interventions", edited)
        curves = []
        if "head" in config.layers:
            curve = run.scored("sweep", config.interventions.splits)
            rankings = (*config.interventions.rankings, "")
            curve = run.labelled(curve[curve["ranking"].isin(rankings)], ["head"])
            write_table(curve, folder / "sweep.parquet")
            curves = [folder / "sweep.parquet"]
        yield "sweep", lambda: sweep.run(
            sweeps=curves, interventions=written["interventions"], concept=concept, sae_name=sae,
            layer_splits=config.shown_splits(), output=output,
        )  # fmt: skip
        yield (
            "interventions",
            lambda: interventions.run(
                interventions=own("interventions"), concept=concept, output=output
            ),
        )
    if at_head:
        yield (
            "ablation", lambda: ablation_figure.run(**at_head, sae_name=sae, output=output)
        )  # fmt: skip
    if "head" in config.layers:
        rows = run.in_splits(base.tables["effects"])
        rows = run.labelled(rows[rows["split"].isin(config.effects.splits)], ["head"])
        write("effects", rows)
        tuned = [name for name, e in config.encoders.items() if e.kind == "finetuned"]
        if tuned:
            pairs = rows[rows["encoder"].isin(tuned)]
            write("matched", pairs.assign(cosine=0.5, null_cosine=0.4, new=pairs["latent"] < 9))
        yield "effects", lambda: effects_figure.run(
            effects=written["effects"], matched_latents=written["matched"] if tuned else None,
            sae_name=sae, split=config.shown_split("effects"), output=output,
        )  # fmt: skip
    if config.cohort.kind == "phantom":
        write("truth", run.labelled(base.tables["truth"], config.layers))
        yield "truth", lambda: truth_figure.run(truth=written["truth"], output=output)
    for name in (*written, "verdicts"):
        page = folder / f"{name}.html"
        yield (
            f"page {name}",
            lambda name=name, page=page: table_page.run(
                table=folder / f"{name}.parquet", output=page
            ),
        )


def try_one(
    content: dict[str, Any], data: st.DataObject, base: Callable[[], Base], run: Any, folder: Path
) -> str:
    """Make all outputs of a random configuration. Return the reason of a refusal, or nothing."""
    try:
        config = load_config(content, "drawn.yaml")
    except InputError as error:
        return str(error)
    sample: Callable[[list[Any]], Any] = lambda values: data.draw(st.sampled_from(values))  # noqa: E731
    drawn = Run(config, base(), run, folder, list(config.cohort.concepts))
    for name, call in make(drawn, sample):
        try:
            call()
        except Exception as error:
            raise AssertionError(f"{name} died: {error!r}") from error
    return ""


@pytest.mark.parametrize(
    "examples", [8, pytest.param(200, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_no_accepted_configuration_dies_after_the_parse(
    examples, bases, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(style, "DPI", 24)
    refused, ended = [], []

    @seed(0)
    @settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(content=configurations(), data=st.data())
    def check(content, data):
        kinds = st.sampled_from(list(COHORTS)[: examples // 4])
        why = try_one(content, data, lambda: bases(data.draw(kinds)), run, tmp_path)
        (refused if why else ended).append(why)

    check()
    assert len(ended) >= examples // 4
    for why in refused:
        assert why.startswith("drawn.yaml") and "\n" not in why
        assert ": " in why

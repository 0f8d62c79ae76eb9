"""The figures that are drawn from tables alone."""

from __future__ import annotations

import math
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.collections import FillBetweenPolyCollection

from mammo_sae.errors import InputError
from mammo_sae.report import confounds, encoders, interventions, layers, sweep, training, truth
from mammo_sae.stores.tables import read_table, write_table


def _encoders(run, whole, output):
    encoders.run(encoders=whole / "encoders.parquet", output=output)


def _training(run, whole, output, names=("head", "blocks.10")):
    training.run(
        histories=[whole / f"{name}.csv" for name in ("head", "blocks.10")],
        layers=names,
        encoder_name="finetuned",
        sae_name="topk",
        output=output,
    )


def _layers(run, whole, output, sae="topk"):
    layers.run(
        sae_quality=whole / "sae_quality.parquet",
        latents=whole / "latents.parquet",
        alignment=whole / "alignment.parquet",
        confounds=whole / "confounds.parquet",
        sae_name=sae,
        output=output,
    )


def _interventions(run, whole, output, concept="mass"):
    interventions.run(interventions=run.table("interventions"), concept=concept, output=output)


def _confounds(run, whole, output, table=None):
    confounds.run(
        latents=run.table("latents"),
        confounds=table or run.table("confounds"),
        concept="mass",
        min_kept=0.5,
        output=output,
    )


def _truth(run, whole, output):
    truth.run(
        truth=whole / "truth.parquet",
        output=output,
    )


@pytest.mark.parametrize(
    "draw", [_encoders, _training, _layers, _interventions, _confounds, _truth]
)
def test_the_figure_shows_something_and_is_the_same_twice(draw, run, whole, tmp_path, is_figure):
    draw(run, whole, tmp_path / "a.png")
    draw(run, whole, tmp_path / "b.png")
    is_figure(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_baselines_of_interventions_are_the_network_and_its_whole_reconstruction(run):
    table = read_table(run.table("interventions"))
    here = table[(table["concept"] == "mass") & (table["split"] == "test")]
    network, spliced = interventions.baselines(here)
    everything = here[(here["mode"] == "on") & (here["k"] == here["k"].max())]
    by_splice = everything.groupby("splice")["auroc"].first()
    assert network == pytest.approx(by_splice["error_preserving"])
    assert spliced == pytest.approx(by_splice["spliced"])


def test_baselines_do_not_need_k_0_or_both_splices(run, tmp_path, is_figure):
    table = read_table(run.table("interventions"))
    table = table[(table["k"] > 0) & (table["splice"] == "error_preserving")]
    here = table[(table["concept"] == "mass") & (table["split"] == "test")]
    network, spliced = interventions.baselines(here)
    every = here[(here["mode"] == "on") & (here["k"] == here["k"].max())]
    assert network == every[every["selection"] == "ranked"]["auroc"].iloc[0]
    assert math.isnan(spliced)
    write_table(table, tmp_path / "interventions.parquet")
    interventions.run(
        interventions=tmp_path / "interventions.parquet", concept="mass", output=tmp_path / "a.png"
    )
    is_figure(tmp_path / "a.png")


def test_every_ranking_of_the_table_is_named_in_the_figure(run, tmp_path, drawn_text):
    table = read_table(run.table("interventions"))
    more = table[table["ranking"] == "auroc"]
    parts = [table, *(more.assign(ranking=name) for name in ("sparse_probe", "effect", "my_own"))]
    write_table(pd.concat(parts), tmp_path / "interventions.parquet")
    for draw, given in (
        (interventions.run, {}),
        (sweep.run, {"sae_name": "topk", "layer_splits": {"head": "test"}}),
    ):
        said = drawn_text(
            draw,
            interventions=tmp_path / "interventions.parquet",
            concept="mass",
            output=tmp_path / "a.png",
            **given,
        )
        names = {"AUROC", "class mean", "mean difference", "class contrast", "sparse probe"}
        assert names | {"effect size", "class mean, both classes", "random order", "my own"} <= {
            *said
        }


def test_the_figure_names_a_concept_without_interventions(run, whole, tmp_path, drawn_text):
    said = drawn_text(_interventions, run, whole, tmp_path / "a.png", concept="density")
    assert "the table interventions has no row of density" in said


def test_an_sae_that_the_tables_lack_is_refused(run, whole, tmp_path):
    with pytest.raises(InputError, match="has no SAE 'l1'"):
        _layers(run, whole, tmp_path / "a.png", sae="l1")


def test_the_advice_about_an_sae_or_layers_of_a_figure_is_followed(run, whole, tmp_path, is_figure):
    with pytest.raises(InputError, match=r"sae_quality\.parquet has no SAE 'l1'; give the name of"):
        _layers(run, whole, tmp_path / "a.png", sae="l1")
    name = read_table(whole / "sae_quality.parquet")["sae"].iloc[0]
    _layers(run, whole, tmp_path / "a.png", sae=name)
    is_figure(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"2 training logs but 1 layers; give one each$"):
        _training(run, whole, tmp_path / "b.png", names=("head",))
    _training(run, whole, tmp_path / "b.png", names=("head", "blocks.10"))
    is_figure(tmp_path / "b.png")
    with pytest.raises(InputError) as refused:
        _training(run, whole, tmp_path / "b.jpg")
    endings = re.findall(r"\.(png|svg|pdf)\b", str(refused.value))
    assert endings == ["png", "svg", "pdf"]
    for ending in endings:
        _training(run, whole, tmp_path / f"c.{ending}")
        assert (tmp_path / f"c.{ending}").stat().st_size > 1000
    is_figure(tmp_path / "c.png")


def test_as_many_layers_as_training_logs_are_wanted(run, whole, tmp_path):
    with pytest.raises(InputError, match="2 training logs but 1 layers"):
        _training(run, whole, tmp_path / "a.png", names=("head",))


def _history(path, steps):
    rows = {"step": steps, "loss": 0.5, "error": 0.5, "explained_variance": 0.6, "l0": 4.0}
    write_table(pd.DataFrame({**rows, "dead_share": 0.25, "lr": 1e-3}), path)
    return path


def test_an_sae_without_steps_is_a_point_beside_the_curves_of_others(tmp_path, is_figure):
    histories = [
        _history(tmp_path / "head.csv", [0]),
        _history(tmp_path / "blocks.10.csv", [8, 16]),
    ]
    training.run(
        histories=histories,
        layers=["head", "blocks.10"],
        encoder_name="finetuned",
        sae_name="pca",
        output=tmp_path / "a.png",
    )
    is_figure(tmp_path / "a.png")
    fig, ax = plt.subplots()
    curves = [("head", read_table(histories[0])), ("blocks.10", read_table(histories[1]))]
    training._panel(ax, "explained_variance", curves, {"head": "C0", "blocks.10": "C1"})
    drawn = {line.get_color(): (line.get_marker(), len(line.get_xdata())) for line in ax.lines}
    plt.close(fig)
    assert drawn == {"C0": (".", 1), "C1": ("", 2)}


def test_a_figure_of_saes_without_steps_says_so(tmp_path, drawn_text):
    said = drawn_text(
        training.run,
        histories=[_history(tmp_path / "head.csv", [0])],
        layers=["head"],
        encoder_name="finetuned",
        sae_name="pca",
        output=tmp_path / "a.png",
    )
    assert "these SAEs took no training steps" in said


def test_confounders_that_could_not_be_tested_are_named(run, whole, tmp_path, is_figure):
    table = read_table(run.table("confounds"))
    table["verdict"], table["reason"] = "insufficient", "the image table has no column implant"
    for column in ("crude_auroc", "stratified_auroc", "effect"):
        table[column] = float("nan")
    write_table(table, tmp_path / "confounds.parquet")
    _confounds(run, whole, tmp_path / "a.png", tmp_path / "confounds.parquet")
    is_figure(tmp_path / "a.png")


def test_the_top_latents_localisation_is_not_drawn_for_others(run, whole):
    table = read_table(whole / "latents.parquet")
    best = layers.best_latents(table[table["concept"] == "mass"], layers.TOP)
    assert (best.groupby(["encoder", "layer"]).size() == layers.TOP).all()
    assert (best["rank_auroc"] <= layers.TOP).all()


def test_a_cohort_without_masks_still_gives_the_figure_of_layers(run, whole, tmp_path, is_figure):
    for name in ("sae_quality", "latents", "alignment", "confounds"):
        table = read_table(whole / f"{name}.parquet")
        if name == "alignment":  # as in the alignment table if no image has a mask
            table = table[["encoder", "layer", "sae", "seed", "concept", "latent", "selection"]]
            table = table.assign(energy_lift=float("nan"), reason="no mask or box of mass")
        write_table(table, tmp_path / f"{name}.parquet")
    _layers(run, tmp_path, tmp_path / "layers.png")
    is_figure(tmp_path / "layers.png")


def test_without_ranked_latents_the_other_panels_of_confounds_remain(run, tmp_path, is_figure):
    table = read_table(run.table("latents"))
    table["rank_auroc"] = pd.array([pd.NA] * len(table), "Int32")
    write_table(table, tmp_path / "latents.parquet")
    confounds.run(
        latents=tmp_path / "latents.parquet",
        confounds=run.table("confounds"),
        concept="mass",
        min_kept=0.5,
        output=tmp_path / "confounds.png",
    )
    is_figure(tmp_path / "confounds.png")


def test_scores_that_could_not_be_estimated_leave_their_curves_out(run, whole, tmp_path, is_figure):
    table = read_table(run.table("interventions"))
    table[["auroc", "auroc_low", "auroc_high"]] = float("nan")
    write_table(table, tmp_path / "interventions.parquet")
    interventions.run(
        interventions=tmp_path / "interventions.parquet", concept="mass", output=tmp_path / "a.png"
    )
    is_figure(tmp_path / "a.png")


def test_the_figure_names_a_layer_without_lift_and_an_untested_confounder(
    run, whole, tmp_path, drawn_text
):
    for name in ("sae_quality", "latents", "alignment", "confounds"):
        table = read_table(whole / f"{name}.parquet")
        if name == "alignment":
            gone = (table["layer"] == "head") & (table["encoder"] == "finetuned")
            table.loc[gone, "energy_lift"] = float("nan")
        if name == "confounds":
            table.loc[table["confounder"] == "marker", "confounder_auroc"] = float("nan")
        write_table(table, tmp_path / f"{name}.parquet")
    said = drawn_text(_layers, run, tmp_path, tmp_path / "layers.png")
    assert said.count("not estimable") == 2  # one per concept
    assert "marker (not testable)" in said


def test_the_terms_of_the_loss_are_drawn_apart(run, whole, tmp_path, drawn_text):
    said = drawn_text(_training, run, whole, tmp_path / "a.png")
    assert {"reconstruction error", "penalties: loss minus error"} <= set(said)
    for name in ("head", "blocks.10"):
        history = read_table(whole / f"{name}.csv")
        write_table(history.assign(error=history["loss"]), tmp_path / f"{name}.csv")
    said = drawn_text(_training, run, tmp_path, tmp_path / "a.png")
    assert "none: the loss is the reconstruction error" in said


@pytest.mark.parametrize(
    "draw", [_encoders, _training, _layers, _interventions, _confounds, _truth]
)
def test_no_text_is_cut_or_lies_over_points_or_other_texts(draw, run, whole, tmp_path, collisions):
    assert collisions(draw, run, whole, tmp_path / "a.png") == []


def test_long_names_of_confounders_can_be_read(run, whole, tmp_path, collisions):
    names = {"manufacturer": "photometric_interpretation", "view": "acquisition_device_id"}
    table = read_table(run.table("confounds"))
    write_table(table.replace({"confounder": names}), tmp_path / "confounds.parquet")
    given = tmp_path / "a.png", tmp_path / "confounds.parquet"
    assert collisions(_confounds, run, whole, *given) == []


def test_the_legend_of_confounds_explains_the_shading(run, whole, tmp_path, drawn_figure):
    fig = drawn_figure(_confounds, run, whole, tmp_path / "a.png")
    (legend,) = fig.legends
    entries = zip(legend.get_patches(), legend.get_texts()[-1:], strict=True)
    ((patch, text),) = entries
    shaded = [
        c for ax in fig.axes for c in ax.collections if isinstance(c, FillBetweenPolyCollection)
    ]
    assert shaded
    assert {tuple(c.get_facecolor()[0]) for c in shaded} == {patch.get_facecolor()}
    assert text.get_text() == "under 50% of the crude excess over 0.5 remains within levels"
    # Where the crude AUROC is 0.9, half of the excess is left at 0.7.
    for region in shaded:
        inside = region.get_paths()[0]
        assert inside.contains_point((0.9, 0.69)) != inside.contains_point((0.9, 0.71)) or (
            region.get_paths()[0].get_extents().x1 <= 0.5
        )


def test_every_row_of_confounders_has_numbers_beside_its_first_panel(
    run, whole, tmp_path, drawn_figure
):
    fig = drawn_figure(_confounds, run, whole, tmp_path / "a.png")
    panels = [ax for ax in fig.axes if ax.get_aspect() == 1.0 and ax.axison]
    assert panels
    for ax in panels:
        beside = [o for o in panels if o.bbox.y0 == ax.bbox.y0 and o.bbox.x0 < ax.bbox.x0]
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert any(labels) == (not beside)
        assert ax.get_ylabel() == ("" if beside else "AUROC within its levels")


def test_a_concept_that_the_tables_lack_is_said_so(run, tmp_path, drawn_text):
    said = drawn_text(
        confounds.run,
        latents=run.table("latents"),
        confounds=run.table("confounds"),
        concept="mas",
        min_kept=0.5,
        output=tmp_path / "a.png",
    )
    assert "no latent was tested: the table latents has no row of mas" in said


def test_counts_of_latents_are_whole_numbers(run, whole, tmp_path, drawn_figure):
    fig = drawn_figure(_confounds, run, whole, tmp_path / "a.png")
    (ax,) = [ax for ax in fig.axes if ax.get_xlabel() == "associated latents"]
    assert all(float(tick).is_integer() for tick in ax.get_xticks())

"""The staleness contract: the rules that rerun after each edit, checked by real dry runs."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from adding import add_dataset, add_variant

pytestmark = pytest.mark.workflow

RUNS = 5  # two encoders, two layers, and a control at one
TRAINED = RUNS - 1  # of the SAE topk
SHARDS = 3  # two of the cohort, and the phantom's pairs
IMAGES = 2  # a trained SAE encodes the cohort, and the phantom's pairs; a control only the cohort
REPORT = {"table", "figure"}
PAGES = {"atlas", "configuration", "crate", "summary", "table_page"}
ANALYSES = {"latents", "probes", "interventions", "effects", "inner", "matched_latents"} | {
    "activation_matches",
    "alignment",
    "confounds",
    "replication",
    "absorption",
    "ablation",
    "inner_ablation",
    "reliance",
    "responses",
    "truth",
}
BELOW_VERDICTS = {"replication", "ablation", "inner_ablation", "reliance"} | {"responses", "truth"}
BELOW_SAE = {"train_sae", "codes", "sae_quality"} | ANALYSES | REPORT
BELOW_EMBEDDINGS = {
    "evaluate_encoder",
    "linear_probe",
    "logit_responses",
    "saliency",
} | BELOW_SAE


def _kinds(jobs: dict[str, int]) -> set[str]:
    """Name the rules, with all figures and pages as one."""
    kinds = {"figure" if name.startswith("figure") or name in PAGES else name for name in jobs}
    return {"table" if name in {"verdicts", "controls"} else name for name in kinds}


def test_a_finished_run_has_nothing_to_do(finished):
    assert finished.stale() == {}


def test_touching_every_source_file_makes_nothing_stale(restored):
    for part in ("src", "workflow", "config"):
        for path in (restored.folder / part).rglob("*"):
            os.utime(path)
    assert restored.stale() == {}


def test_a_comment_a_docstring_or_formatting_makes_nothing_stale(restored):
    module = "src/mammo_sae/sae/trainer.py"
    restored.edit(module, '"""', '"""Something else. ')
    restored.edit(module, "\n\n\n", "\n\n\n# A comment.\n\n\n")
    assert restored.stale() == {}


def test_git_stash_and_pop_make_nothing_stale(restored):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
            cwd=restored.folder,
            check=True,
            capture_output=True,
        )

    git("init")
    git("add", "src", "workflow", "config", "Snakefile")
    git("commit", "-m", "as it was")
    restored.edit("src/mammo_sae/sae/trainer.py", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    git("stash")
    time.sleep(0.01)
    assert restored.stale() == {}
    git("stash", "pop")
    assert "train_sae" in restored.stale()


def test_the_order_of_keys_and_the_form_of_numbers_make_nothing_stale(restored):
    overlay = """
confounds: {top_latents: 5, permutation_draws: 99, bootstrap_draws: 20}
evaluation: {seed: 0, bootstrap_draws: 50}
linear_probe: {c: 1.0e-2}
"""
    assert restored.stale(overlay=overlay) == {}


def test_the_learning_rate_reruns_training_and_below(finished):
    jobs = finished.stale(overlay="saes: {topk: {lr: 0.002}}")
    assert _kinds(jobs) == BELOW_SAE
    assert jobs["train_sae"] == TRAINED


def test_an_override_of_one_layer_reruns_that_layer_alone(finished):
    jobs = finished.stale(overlay="saes: {topk: {layers: {head: {lr: 0.0005}}}}")
    assert jobs["train_sae"] == jobs["latents"] == 2
    assert jobs["codes"] == 2 * IMAGES


def test_a_second_seed_adds_its_saes_and_reruns_the_report_alone(finished):
    jobs = finished.stale(overlay="saes: {topk: {seeds: [0, 1]}}")
    assert jobs["train_sae"] == TRAINED
    assert jobs["latents"] == TRAINED
    assert _kinds(jobs) == BELOW_SAE | {"sae_stability", "verdict_stability"}


def test_an_sae_restricted_to_one_encoder_reruns_the_report_alone(finished):
    jobs = finished.stale(overlay="saes: {topk: {only: {encoders: [finetuned]}}}")
    assert _kinds(jobs) == REPORT


def test_a_layer_added_to_a_restricted_sae_leaves_the_others_alone(finished):
    jobs = finished.stale(overlay="saes: {channels: {only: {layers: [blocks.10, head]}}}")
    assert jobs["train_sae"] == jobs["codes"] == jobs["inner"] == 1


def test_a_confound_threshold_reruns_confounds_what_reads_verdicts_and_the_report(finished):
    jobs = finished.stale(overlay="confounds: {min_kept: 0.4}")
    assert _kinds(jobs) == {"confounds"} | BELOW_VERDICTS | REPORT
    assert jobs["confounds"] == RUNS


def test_the_list_of_top_k_reruns_interventions_and_the_report(finished):
    jobs = finished.stale(overlay="interventions: {top_k: [0, 1, 5, 160]}")
    assert _kinds(jobs) == {"interventions"} | REPORT


def test_an_added_layer_leaves_the_others_alone(finished):
    jobs = finished.stale(overlay="layers: [blocks.10, blocks.12, head]")
    assert jobs["extract"] == 2 * SHARDS  # only the new pass of two encoders
    assert jobs["train_sae"] == jobs["latents"] == 2
    assert jobs["codes"] == 2 * IMAGES
    assert not {"images", "finetune", "linear_probe", "evaluate_encoder"} & jobs.keys()


def test_a_removed_layer_or_another_order_reruns_the_report_alone(finished):
    assert _kinds(finished.stale(overlay="layers: [head]")) <= REPORT
    assert _kinds(finished.stale(overlay="layers: [head, blocks.10]")) <= REPORT


def test_the_recipe_of_fine_tuning_leaves_the_pretrained_encoder_alone(finished):
    jobs = finished.stale(overlay="encoders: {finetuned: {recipe: {lr: 0.0001}}}")
    assert jobs["finetune"] == 1
    assert jobs["extract"] == SHARDS
    assert jobs["train_sae"] == 3
    assert not {"images", "import_encoder", "linear_probe"} & jobs.keys()


def test_the_image_size_reruns_everything_but_the_cohort(finished):
    jobs = finished.stale(overlay="images: {height: 160}")
    assert jobs["images"] == 2
    assert not {"phantom", "cohort", "import_encoder"} & jobs.keys()


@pytest.mark.parametrize(
    "overlay",
    [
        "{cohort: {concepts: {mass: null, tumour: Mass}}, truth: {concept: tumour}}",
        "cohort: {concepts: {mass: Mass}, covariates: {paddle: paddle}}",
    ],
)
def test_a_renamed_or_removed_concept_reruns_only_steps_that_use_labels(finished, overlay):
    jobs = finished.stale(overlay=overlay)
    # Fine-tuning uses labels, so its encoder gets another head, and all its results rerun.
    assert (jobs["cohort"], jobs["finetune"], jobs["linear_probe"]) == (1, 1, 1)
    assert jobs["extract"] == SHARDS
    assert jobs["train_sae"] == 3
    assert jobs["codes"] == 2 * IMAGES + 1
    assert jobs["latents"] == jobs["confounds"] == jobs["alignment"] == RUNS
    assert not {"phantom", "splits", "images", "import_encoder"} & jobs.keys()
    plan = finished.snakemake("-n", overlay=overlay)
    text = plan.stdout + plan.stderr
    assert "SAE: finetuned, head" in text
    assert "SAE: pretrained" not in text
    assert "Codes: pretrained" not in text


def test_patients_drawn_into_another_split_rerun_the_saes(finished):
    jobs = finished.stale(overlay="cohort: {validation_share: 0.2}")
    assert jobs["cohort"] == 1
    assert jobs["train_sae"] == RUNS
    assert jobs["codes"] == TRAINED * IMAGES + 1
    assert "images" not in jobs


def test_a_renamed_concept_does_not_hide_what_else_an_sae_is_stale_for(finished):
    overlay = """
cohort: {concepts: {mass: null, tumour: Mass}}
truth: {concept: tumour}
saes: {topk: {lr: 0.002}}
"""
    jobs = finished.stale(overlay=overlay)
    assert jobs["train_sae"] == RUNS
    assert jobs["codes"] == TRAINED * IMAGES + 1


def test_a_new_variant_and_its_settings_make_nothing_stale(restored):
    add_variant(restored.folder)
    assert restored.stale() == {}
    jobs = restored.stale(overlay="saes: {sparse: {variant: {name: thinned}, latents: 64}}")
    assert jobs["train_sae"] == TRAINED
    assert jobs["codes"] == TRAINED * IMAGES


def test_a_new_dataset_makes_nothing_stale(restored):
    add_dataset(restored.folder)
    assert restored.stale() == {}


@pytest.mark.parametrize(
    "module",
    ["sae/variants/gated.py", "sae/formats/published.py", "sae/settings.py", "cohorts/cmmd.py",
     "cohorts/settings.py"],
)  # fmt: skip
def test_editing_another_variant_or_another_dataset_makes_nothing_stale(restored, module):
    restored.edit(f"src/mammo_sae/{module}", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    assert restored.stale() == {}


def test_editing_the_reader_of_the_dataset_reruns_its_cohort_and_images(restored):
    restored.edit("src/mammo_sae/cohorts/vindr.py", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    jobs = restored.stale()
    assert jobs["cohort"] == 1
    assert jobs["images"] == 2
    assert "phantom" not in jobs


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("sae/variants/topk.py", BELOW_SAE),
        ("sae/trainer.py", BELOW_SAE),
        ("sae/codes.py", {"codes", "sae_quality"} | ANALYSES | REPORT),
        # Probes divide a confounder into levels in the same way as the confound report.
        ("analysis/levels.py", {"confounds", "probes"} | BELOW_VERDICTS | REPORT),
        ("analysis/confounds.py", {"confounds"} | BELOW_VERDICTS | REPORT),
        ("images/measurements.py", {"measurements", "confounds"} | BELOW_VERDICTS | REPORT),
        ("analysis/alignment.py", {"alignment"} | REPORT),
        ("analysis/replication.py", {"replication"} | REPORT),
        ("analysis/absorption.py", {"absorption"} | REPORT),
        ("analysis/truth.py", {"truth"} | REPORT),
        ("analysis/responses.py", {"responses", "logit_responses", "truth"} | REPORT),
        (
            "images/pairs.py",
            {"pairs", "extract", "codes", "logit_responses"} | {"responses", "truth"} | REPORT,
        ),
        ("encoders/linear_probe.py", {"linear_probe"}),
    ],
)
def test_editing_a_module_reruns_the_steps_that_use_it_and_below(restored, module, expected):
    restored.edit(f"src/mammo_sae/{module}", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    jobs = _kinds(restored.stale())
    assert jobs >= expected
    if module != "encoders/linear_probe.py":
        assert jobs == expected


def test_editing_the_command_line_or_the_assembly_of_settings_makes_nothing_stale(restored):
    restored.edit("src/mammo_sae/cli.py", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    restored.edit("src/mammo_sae/config.py", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    assert restored.stale() == {}


def test_moving_the_project_makes_nothing_stale(finished):
    moved = finished.folder.with_name("moved")
    finished.folder.rename(moved)
    try:
        assert type(finished)(moved).stale() == {}
    finally:
        moved.rename(finished.folder)


def test_a_store_that_was_deleted_is_built_again_when_something_needs_it(finished):
    store = finished.results / "images" / "0.zarr"
    aside = store.with_name("aside")
    store.rename(aside)
    try:
        assert finished.stale() == {}
        jobs = finished.stale(overlay="alignment: {top_latents: 4}")
        assert jobs["images"] == 1
    finally:
        aside.rename(store)

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from dense_scores import mass_auprc
from mammo_sae import statistics as st
from mammo_sae.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def tied_scores(rng, n=150, m=6):
    scores = np.round(rng.normal(size=(n, m)) * 2) / 2
    scores[:, 1] = np.maximum(scores[:, 1], 0)
    return scores, rng.random(n) < 0.3


def test_auroc_and_auprc_equal_scikit_learn_with_ties(rng):
    scores, labels = tied_scores(rng)
    expected = [metrics.roc_auc_score(labels, column) for column in scores.T]
    np.testing.assert_allclose(st.auroc(scores, labels), expected)
    expected = [metrics.average_precision_score(labels, column) for column in scores.T]
    np.testing.assert_allclose(st.auprc(scores, labels), expected)
    assert st.auroc(scores[:, 0], labels) == pytest.approx(
        metrics.roc_auc_score(labels, scores[:, 0])
    )


def test_more_columns_than_one_block_are_all_scored(rng):
    scores = rng.normal(size=(30, 1100))
    labels = rng.random(30) < 0.5
    assert st.auroc(scores, labels)[-1] == pytest.approx(
        metrics.roc_auc_score(labels, scores[:, -1])
    )


def test_weights_equal_repeating_the_images(rng):
    scores, labels = tied_scores(rng)
    weights = rng.integers(0, 4, (len(labels), 3)).astype(np.float32)
    for name in ("auroc", "auprc"):
        weighted = getattr(st, name)(scores, labels, weights)
        for draw in range(3):
            rows = np.repeat(np.arange(len(labels)), weights[:, draw].astype(int))
            expected = getattr(st, name)(scores[rows], labels[rows])
            np.testing.assert_allclose(weighted[:, draw], expected, rtol=1e-6)


def test_precision_recall_and_f1_equal_scikit_learn(rng):
    scores, labels = tied_scores(rng)
    precision, recall, f1 = st.precision_recall_f1(scores, labels, threshold=0.4)
    for column in range(scores.shape[1]):
        called = scores[:, column] > 0.4
        assert precision[column] == pytest.approx(metrics.precision_score(labels, called))
        assert recall[column] == pytest.approx(metrics.recall_score(labels, called))
        assert f1[column] == pytest.approx(metrics.f1_score(labels, called))


def test_precision_is_missing_where_nothing_is_called():
    precision, recall, f1 = st.precision_recall_f1(np.zeros(4), np.array([0, 0, 1, 1]))
    assert np.isnan(precision)
    assert (recall, f1) == (0.0, 0.0)


def test_each_score_has_a_threshold_of_its_own(rng):
    scores, labels = tied_scores(rng)
    thresholds = np.linspace(0.1, 0.7, scores.shape[1])
    together = st.precision_recall_f1(scores, labels, threshold=thresholds)
    for column, threshold in enumerate(thresholds):
        alone = st.precision_recall_f1(scores[:, column], labels, threshold=threshold)
        assert tuple(values[column] for values in together) == alone


def test_the_best_threshold_has_the_largest_f1_of_all_thresholds(rng):
    scores, labels = tied_scores(rng)
    best = st.best_f1_threshold(scores, labels)
    for column in range(scores.shape[1]):
        score = scores[:, column]
        every = {t: metrics.f1_score(labels, score >= t) for t in np.unique(score)}
        assert every[best[column]] == max(every.values())
        assert all(t <= best[column] for t, f1 in every.items() if f1 == max(every.values()))


def test_the_best_threshold_of_a_constant_score_calls_all_and_needs_positives():
    labels = np.array([0, 1, 0, 1])
    assert st.best_f1_threshold(np.full(4, -3.0), labels) == -3.0
    assert st.best_f1_threshold(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 2.0
    assert np.isnan(st.best_f1_threshold(np.arange(4.0), np.zeros(4)))


def test_stratified_auroc_counts_pairs_within_strata_only(rng):
    scores, labels = tied_scores(rng)
    strata = rng.integers(0, 3, len(labels))
    for column in range(2):
        score, concordant, pairs = scores[:, column], 0.0, 0
        for i in np.flatnonzero(labels):
            for j in np.flatnonzero(~labels & (strata == strata[i])):
                concordant += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
                pairs += 1
        assert st.stratified_auroc(score, labels, strata) == pytest.approx(concordant / pairs)


def test_stratified_auroc_of_the_stratum_itself_is_one_half(rng):
    strata = rng.integers(0, 2, 200)
    labels = rng.random(200) < np.where(strata, 0.8, 0.2)
    score = strata.astype(float)
    assert st.auroc(score, labels) > 0.7
    assert st.stratified_auroc(score, labels, strata) == 0.5


def test_empty_classes_give_missing_scores():
    assert np.isnan(st.auroc(np.arange(4.0), np.zeros(4)))
    assert np.isnan(st.auprc(np.arange(4.0), np.zeros(4)))
    low, high = st.patient_bootstrap(
        st.auroc, np.arange(4.0), np.zeros(4), np.arange(4), draws=5, seed=0
    )
    assert np.isnan(low)
    assert np.isnan(high)


def test_too_few_patients_of_a_class_are_named():
    one_each = np.arange(60)
    said = st.why_not_estimable([1] * 9 + [0] * 51, one_each)
    assert said == "9 patients with a positive image, fewer than 10"
    assert st.why_not_estimable([0] * 4 + [1] * 56, one_each).startswith("4 patients with a neg")
    assert st.why_not_estimable([1] * 10 + [0] * 50, one_each) == ""


def test_twelve_positive_images_of_one_patient_are_not_estimable():
    labels, patients = [1] * 12 + [0] * 40, [0] * 12 + [*range(1, 41)]
    said = st.why_not_estimable(labels, patients)
    assert said == "1 patient with a positive image, fewer than 10"


def test_patients_are_counted_once_per_group():
    assert st.patients_per_group([0, 0, 1, 1, 0], ["a", "a", "a", "b", "b"], 3).tolist() == [
        2,
        2,
        0,
    ]


def test_missing_labels_are_refused():
    with pytest.raises(InputError, match="drop unlabelled images"):
        st.auroc(np.arange(3.0), np.array([0.0, 1.0, np.nan]))
    with pytest.raises(InputError, match="do not match"):
        st.auroc(np.arange(3.0), np.array([0.0, 1.0]))


def test_pixel_average_precision_equals_scoring_every_pixel(rng):
    scores = np.array([0.5, 0.0, 0.9, 0.5, 0.2])
    inside, total = np.array([3, 1, 6, 0, 2]), np.array([10, 10, 8, 10, 2])
    pixel_scores = np.repeat(scores, total)
    pixel_labels = np.concatenate([np.arange(t) < i for i, t in zip(inside, total, strict=True)])
    assert mass_auprc(scores, inside, total) == pytest.approx(
        metrics.average_precision_score(pixel_labels, pixel_scores)
    )


def test_pairs_of_many_tied_images_are_counted_exactly(rng):
    labels = np.arange(400_000) % 2 == 0
    scores = (rng.random(400_000) < np.where(labels, 0.7, 0.6)).astype(np.float32)
    drawn = st.auroc(scores, labels, np.ones((400_000, 1), np.float32))
    assert drawn[0] == pytest.approx(st.auroc(scores, labels), abs=1e-12)


def test_an_effect_has_the_same_bits_alone_as_among_other_scores(rng):
    scores, labels = rng.random((3000, 5)).astype(np.float32), rng.random(3000) < 0.3
    together = st.standardised_mean_difference(scores, labels)
    in_columns = st.standardised_mean_difference(np.asfortranarray(scores), labels)
    alone = [st.standardised_mean_difference(score, labels) for score in scores.T]
    assert together.tolist() == in_columns.tolist() == alone


def clustered(rng, patients=120, images=4, shift=0.0, share=0.8):
    """Scores with a strong patient effect, labels of whole patients."""
    label = rng.random(patients) < 0.4
    effect = rng.normal(size=patients) * np.sqrt(share) + shift * label
    score = effect[:, None] + rng.normal(size=(patients, images)) * np.sqrt(1 - share)
    return score.ravel(), np.repeat(label, images), np.repeat(np.arange(patients), images)


@pytest.mark.parametrize("metric", [st.auroc, st.auprc])
def test_blocks_of_draws_change_nothing(rng, monkeypatch, metric):
    patients = np.repeat(np.arange(100), 3)
    scores, labels = rng.random((300, 2)), rng.random(300) < 0.2
    [weights] = st.PatientDraws(patients, 50, 4).weights()
    expected = st.interval(metric(scores, labels, weights))
    monkeypatch.setattr(st, "DRAWN", 2100)  # seven draws of 300 images
    assert len(list(st.PatientDraws(patients, 50, 4).weights())) == 8
    found = st.patient_bootstrap(metric, scores, labels, patients, 50, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_patient_bootstrap_covers_the_true_auroc_and_an_image_bootstrap_does_not(rng):
    truth = stats.norm.cdf(0.8 / np.sqrt(2))
    covered = {"patient": 0, "image": 0}
    for trial in range(150):
        scores, labels, patients = clustered(rng, shift=0.8)
        for name, units in (("patient", patients), ("image", np.arange(len(patients)))):
            low, high = st.patient_bootstrap(st.auroc, scores, labels, units, 200, trial)
            covered[name] += low <= truth <= high
    assert 0.90 <= covered["patient"] / 150 <= 0.99
    assert covered["image"] / 150 < 0.85


def test_the_bootstrap_takes_metrics_with_bound_arguments(rng):
    scores, labels, patients = clustered(rng, shift=1.0)
    strata = rng.integers(0, 2, len(labels))
    metric = partial(st.stratified_auroc, strata=strata)
    low, high = st.patient_bootstrap(
        lambda s, y, w: metric(s, y, weights=w), scores, labels, patients, 100, 0
    )
    assert low < st.stratified_auroc(scores, labels, strata) < high


def test_benjamini_hochberg_equals_scipy_and_leaves_missing_values_out(rng):
    p = rng.random(50) ** 2
    np.testing.assert_allclose(
        st.benjamini_hochberg(p), stats.false_discovery_control(p, method="bh")
    )
    q = st.benjamini_hochberg(np.append(p, np.nan))
    assert np.isnan(q[-1])
    np.testing.assert_allclose(q[:-1], st.benjamini_hochberg(p))
    assert np.isnan(st.benjamini_hochberg([np.nan, np.nan])).all()


def test_a_family_of_one_confounder_is_benjamini_and_hochberg_s(rng):
    p = rng.random(40) ** 3
    np.testing.assert_allclose(st.family_q(p[:, None])[:, 0], st.benjamini_hochberg(p))


def test_a_family_of_one_latent_is_holm_s():
    q = st.family_q([[0.01, 0.04, np.nan, 0.03]])
    np.testing.assert_allclose(q, [[0.03, 0.06, np.nan, 0.06]])


def test_family_q_is_the_smallest_threshold_at_which_the_latent_is_taken(rng):
    """Benjamini and Bogomolov: latents by their smallest adjusted p, then Holm at alpha R / m."""
    p = rng.random((12, 4)) ** 4
    p[3, 1:] = np.nan
    p[5] = np.nan
    q = st.family_q(p)
    assert (np.isnan(q) == np.isnan(p)).all()
    known = [row[~np.isnan(row)] for row in p]
    smallest = [min(row.min() * len(row), 1) for row in known if len(row)]
    for alpha in (0.05, 0.2, 0.5):
        taken = (st.benjamini_hochberg(smallest) <= alpha).sum()
        for row, values in zip(q, known, strict=True):
            holm = np.maximum.accumulate(np.sort(values) * np.arange(len(values), 0, -1))
            expected = np.minimum(holm, 1) <= alpha * taken / len(smallest)
            assert (np.sort(row)[: len(values)] <= alpha).tolist() == expected.tolist()


def test_true_confounders_do_not_raise_the_error_rate_of_null_confounders(rng):
    """Ten of 30 latents discriminate the first confounder, none the other nineteen."""
    wrong = []
    for _ in range(300):
        p = rng.random((30, 20))
        p[:10, 0] = 1e-4
        wrong.append((st.family_q(p)[:, 1:] < 0.05).any(axis=1).mean())
    assert np.mean(wrong) < 0.05


def test_effect_sizes_equal_their_definitions(rng):
    scores, labels = tied_scores(rng)
    high, low = scores[labels, 0], scores[~labels, 0]
    expected = (high.mean() - low.mean()) / np.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2)
    assert st.standardised_mean_difference(scores, labels)[0] == pytest.approx(expected)
    groups = rng.integers(0, 3, len(labels))
    f = stats.f_oneway(*[scores[groups == g, 0] for g in range(3)]).statistic
    n = len(labels)
    assert st.eta_squared(scores, groups)[0] == pytest.approx(2 * f / (2 * f + n - 3))
    table = stats.contingency.crosstab(labels, groups).count
    assert st.cramers_v(labels, groups) == pytest.approx(
        stats.contingency.association(table, method="cramer")
    )


def test_effect_sizes_of_constants_are_missing():
    labels = np.arange(10) % 2
    assert np.isnan(st.standardised_mean_difference(np.ones(10), labels))
    assert np.isnan(st.eta_squared(np.ones(10), labels))
    assert np.isnan(st.cramers_v(np.ones(10), labels))
    assert st.is_constant(np.stack([np.ones(10), labels], 1)).tolist() == [True, False]


def test_signed_zeros_are_tied_and_negative_scores_keep_their_order():
    scores = np.array([-3.0, -0.0, 0.0, 0.0, -0.0, -1e-300, 2.0])
    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    assert st.auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores))

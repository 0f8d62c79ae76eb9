"""p-values by exchange of patients with equal and unequal numbers of images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mammo_sae import statistics as st
from mammo_sae.analysis import exchange as ex
from mammo_sae.regression import features


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def clustered(rng, patients=120, images=4, shift=0.0, share=0.8):
    """Scores with a strong patient effect, labels of whole patients."""
    label = rng.random(patients) < 0.4
    effect = rng.normal(size=patients) * np.sqrt(share) + shift * label
    score = effect[:, None] + rng.normal(size=(patients, images)) * np.sqrt(1 - share)
    return score.ravel(), np.repeat(label, images), np.repeat(np.arange(patients), images)


def p_value(scores, values, patients, draws=199, seed=0, **more):
    return ex.patient_permutation_p(scores, values, patients, draws=draws, seed=seed, **more)


def exchanges(patients, draws, seed, within=None):
    moves = ex.PatientExchanges(patients, draws, seed, within)
    return moves.of(np.arange(len(patients)))


def test_patients_with_two_to_twenty_one_images_have_a_small_p_where_the_score_is_the_label(rng):
    patients = np.repeat(np.arange(20), np.arange(2, 22))
    label = patients % 2
    p = p_value(label + 1e-3 * rng.normal(size=len(label)), label, patients)
    assert p == pytest.approx(1 / (1 + 199 * ex.MOST))


def test_a_latent_that_fires_in_half_of_ten_positive_patients_and_rarely_else_is_found(rng):
    ill = np.arange(600) < 10
    fires = np.where(ill, np.arange(600) < 5, rng.random(600) < 0.01)
    patients = np.repeat(np.arange(600), 4)
    p = p_value(fires[patients] * rng.random(2400), ill[patients], patients)
    assert p < 0.001


def test_the_mean_ranks_of_patients_vary_alike_for_any_number_of_images(rng):
    size = np.repeat([1, 20], 1000)
    patients = np.repeat(np.arange(2000), size)
    scores = rng.normal(size=2000)[patients] + 2 * rng.normal(size=len(patients))
    trade = ex._Trade(patients % 2, patients, None, None)
    z = trade._standardised(scores[:, None])[0][:, 0]
    assert [z[size == one].var() for one in (1, 20)] == pytest.approx([1, 1], abs=0.1)


def test_with_one_image_a_patient_p_is_that_of_the_mann_whitney_test(rng):
    score, label = rng.normal(size=80), np.arange(80) < 25
    score[label] += 0.35
    expected = stats.mannwhitneyu(score[label], score[~label]).pvalue
    p = [p_value(score, label, np.arange(80), draws=999, seed=seed) for seed in range(20)]
    assert np.mean(p) == pytest.approx(expected, rel=0.1)  # 3 standard errors of 20 p-values
    assert 0.05 < np.std(p) / expected < 0.25  # 14 % by theory


def test_a_finding_in_one_breast_is_compared_with_the_other_breast_of_the_patient(rng):
    patients, breast = np.repeat(np.arange(12), 4), np.tile([0, 0, 1, 1], 12)
    label = breast == (np.arange(12) % 2)[patients]  # in every patient, left or right
    score = 3.0 * rng.normal(size=12)[patients] + label + 0.1 * rng.normal(size=48)
    assert p_value(score, label, patients, breasts=breast) < 0.01


def test_an_association_with_the_view_is_found_within_a_breast(rng):
    patients, view = np.repeat(np.arange(40), 4), np.tile([0, 1, 0, 1], 40)
    breast = np.tile([0, 0, 1, 1], 40)
    label = (np.arange(40) % 2 == 0)[patients]
    score = 2.0 * rng.normal(size=40)[patients] + 0.6 * view + 0.3 * rng.normal(size=160)
    assert p_value(score, view, patients, within=label, breasts=breast) < 0.001


def unequal_null(rng, trial):
    """Return a cohort in which positive patients have more images, and nothing is associated."""
    ill = rng.permutation(50) < 15
    count = np.where(ill, rng.integers(4, 13, 50), rng.integers(1, 5, 50))
    patients = np.repeat(np.arange(50), count)
    breast = np.concatenate([np.arange(n) // 2 % 2 for n in count])
    label = ill[patients] if trial % 2 else ill[patients] & (breast == 0)
    score = 1.4 * rng.normal(size=50)[patients] + rng.normal(size=100)[2 * patients + breast]
    return score + rng.normal(size=len(patients)), label, patients, breast


def test_a_true_null_is_rejected_at_alpha_though_positive_patients_have_more_images():
    """A test that exchanges images instead of patients rejects far more often."""
    rng = np.random.default_rng(3)
    rejected, naive = [], []
    for trial in range(200):
        scores, label, patients, breast = unequal_null(rng, trial)
        both = np.stack([scores, np.maximum(scores - 1, 0)], axis=1)
        rejected.append(p_value(both, label, patients, 99, trial, breasts=breast) < 0.05)
        naive.append(p_value(scores, label, np.arange(len(label)), 99, trial) < 0.05)
    low, high = stats.binom.ppf([0.001, 0.999], 200, 0.05) / 200
    assert (np.mean(rejected, axis=0) <= high).all()
    assert np.mean(rejected) >= low / 2
    assert np.mean(naive) > 0.15


def test_a_covariate_that_goes_with_the_label_is_rejected_at_alpha_given_the_label():
    rng = np.random.default_rng(5)
    rejected, crude = [], []
    for trial in range(200):
        scores, label, patients, breast = unequal_null(rng, trial)
        scores = scores + 1.5 * label
        ill = np.isin(np.arange(50), patients[label])
        covariate = (rng.random(50) < np.where(ill, 0.8, 0.2))[patients]
        given = {"within": label, "breasts": breast}
        rejected.append(p_value(scores, covariate, patients, 99, trial, **given) < 0.05)
        crude.append(p_value(scores, covariate, patients, 99, trial) < 0.05)
    assert np.mean(rejected) <= stats.binom.ppf(0.999, 200, 0.05) / 200
    assert np.mean(crude) > 0.15


def test_p_values_of_a_family_under_the_null_are_uniform():
    rng = np.random.default_rng(11)
    scores, labels, patients = clustered(rng, patients=60, images=2)
    scores = scores[:, None] + rng.normal(size=(len(labels), 8))
    p, significant = [], 0
    for trial in range(200):
        shuffled = labels[exchanges(patients, 1, 1000 + trial)[0]]
        one = p_value(scores, shuffled, patients, 199, trial)
        p.append(one[trial % 8])
        significant += (st.benjamini_hochberg(one) < 0.05).any()
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert significant / 200 <= 0.05


def test_a_real_association_is_found_for_two_levels_and_for_four(rng):
    scores, labels, patients = clustered(rng, shift=1.5)
    assert p_value(scores, labels, patients) < 0.001
    density = np.repeat(rng.integers(0, 4, 120), 4)
    scores = (density == 2) + 0.3 * rng.normal(size=480)
    assert p_value(scores, density, patients) < 0.001


def test_more_scores_than_one_block_have_the_p_of_each_alone(rng):
    scores, labels, patients = clustered(rng)
    many = np.concatenate([scores[:, None], rng.normal(size=(480, st.COLUMNS))], axis=1)
    p = p_value(many, labels, patients, 99)
    assert p[0] == p_value(scores, labels, patients, 99)
    assert p[-1] == p_value(many[:, -1], labels, patients, 99)


def test_draws_in_small_blocks_give_the_same_counts(rng, monkeypatch):
    scores, labels, patients = clustered(rng)
    whole = p_value(scores, labels, patients)
    monkeypatch.setattr(ex, "_HELD", 1000)
    assert p_value(scores, labels, patients) == pytest.approx(whole, abs=0.1)


def test_a_score_is_exchanged_until_fifty_exchanges_reach_it_or_until_the_last(rng):
    scores, labels, patients = clustered(rng, shift=2.0)
    both = np.stack([scores, rng.normal(size=len(scores))], axis=1)
    p = p_value(both, labels, patients, 99)
    assert p[0] == pytest.approx(1 / (1 + 99 * ex.MOST))
    exchanges = ex.CLEAR / p[1]
    assert exchanges == pytest.approx(round(exchanges))
    trade = ex._Trade(labels, patients, None, None)
    state = ex._State(np.zeros(1, np.int64), np.zeros(1, np.int64))
    [some] = trade.prepared(both[:, 1:], np.array([0]))
    number = 0
    while not state.clear_at[0]:
        trade.exchange(some, trade.moves(99, number), state, 99 * number)
        number += 1
    assert state.clear_at[0] == round(exchanges)
    assert ex.CLEAR <= state.reached[0] < ex.CLEAR + ex._ROUND


def test_the_sequence_gives_the_p_of_all_exchanges_within_its_error(rng, monkeypatch):
    scores, labels, patients = clustered(rng, shift=0.25, share=0.5)
    many = scores[:, None] * np.linspace(0, 1, 12) + rng.normal(size=(480, 12))
    p = p_value(many, labels, patients, 499)
    monkeypatch.setattr(ex, "CLEAR", 10**9)
    whole = p_value(many, labels, patients, 499, seed=1)
    assert p == pytest.approx(whole, rel=4 / np.sqrt(50), abs=4 / (499 * ex.MOST))


@pytest.mark.parametrize("memory", [1, 1 << 26], ids=["file", "memory"])
def test_scores_that_are_read_in_blocks_have_the_p_of_those_read_at_once(rng, monkeypatch, memory):
    monkeypatch.setattr(features, "MEMORY", memory)
    scores, labels, patients = clustered(rng, shift=0.5)
    many = np.concatenate([scores[:, None], rng.normal(size=(480, 6)), np.zeros((480, 1))], axis=1)
    sizes = []

    def read(some):
        sizes.append(len(some))
        return many[:, some]

    order = [np.array([5, 0]), np.array([7, 1, 2]), np.array([6])]
    p = ex.streamed_permutation_p(read, order, labels, patients, draws=99, seed=0)
    whole = p_value(many, labels, patients, 99)
    assert np.array_equal(p, whole[np.concatenate(order)], equal_nan=True)
    assert np.isnan(p[2])
    assert max(sizes) == 3


def test_sequential_p_values_are_below_alpha_at_most_in_a_share_alpha_of_true_nulls():
    """The numbers of exceedances of a true null are those of an observation among exchanges."""
    rng = np.random.default_rng(17)
    patients = np.repeat(np.arange(40), 2)
    noise = rng.normal(size=(80, 4000)) + np.repeat(rng.normal(size=(40, 4000)), 2, axis=0)
    p = p_value(noise, np.arange(80) // 2 < 15, patients, 99)
    for alpha in (0.01, 0.05, 0.2):
        low, high = stats.binom.ppf([0.0005, 0.9995], 4000, alpha) / 4000
        assert low <= (p <= alpha).mean() <= high


@pytest.mark.parametrize("strong", [1, 3])
def test_a_few_scores_among_hundreds_can_have_a_q_below_five_percent(rng, strong):
    scores, labels, patients = clustered(rng, shift=2.0)
    many = rng.normal(size=(len(scores), 600))
    many[:, :strong] = scores[:, None]
    p = p_value(many, labels, patients, 99)
    # With 99 * MOST exchanges, q would be 0.3 for one score, and 0.1 for three.
    assert (st.benjamini_hochberg(p)[:strong] <= ex.LEAST_Q).all()
    exchanges = 1 / p[:strong] - 1
    assert exchanges == pytest.approx(np.full(strong, np.ceil(600 / (0.04 * strong * 99)) * 99))
    # The other scores have the p that they have in a small family.
    assert np.array_equal(p[550:], p_value(many[:, 550:], labels, patients, 99))


def test_a_score_that_further_exchanges_reach_has_the_p_of_all_of_them(rng, monkeypatch):
    patients = np.arange(60)
    labels = patients < 20
    score = 0.8 * labels + rng.normal(size=60)
    whole = p_value(score, labels, patients, 999)
    assert 0.005 < whole < 0.03
    monkeypatch.setattr(ex, "MOST", 1)
    # One exchange does not reach the score. A family of 40 needs 1000.
    p = p_value(score, labels, patients, 1, tests=40)
    assert p * 1001 == pytest.approx(round(p * 1001))
    assert p == pytest.approx(whole, abs=4 * np.sqrt(whole / 1000))


def test_a_constant_score_has_no_p_value():
    assert np.isnan(p_value(np.zeros(20), np.arange(20) % 2, np.arange(20)))


def test_too_few_exchanges_are_counted_and_give_no_p_value(rng):
    # Three patients have both labels and two have only the negative one, so there are at most 3 x 2
    # exchanges.
    patients = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    label = np.array([0, 1, 0, 1, 0, 1, 0, 0])
    covariate = np.array([0, 0, 1, 1, 1, 1, 0, 1])
    said = ex.why_not_exchangeable(covariate, patients, label)
    assert said == "values can be exchanged between patients in 6 ways, fewer than 20"
    assert np.isnan(p_value(rng.normal(size=8), covariate, patients, within=label))
    assert ex.why_not_exchangeable(np.zeros(8), patients).count("in 1 way,") == 1
    assert ex.why_not_exchangeable(np.arange(8) % 2, np.arange(8)) == ""  # 70 ways


def test_exchanges_move_whole_patients_and_with_equal_numbers_permute(rng):
    patients = np.repeat(np.arange(30), 2)
    for order in exchanges(patients, 50, 1):
        assert sorted(order) == list(range(60))
        assert (patients[order].reshape(30, 2) == patients[order].reshape(30, 2)[:, :1]).all()


def test_exchanges_keep_the_view_and_include_patients_with_unequal_numbers():
    patients = np.array([0, 0, 1, 1, 1, 2, 2, 3])
    views = np.array(["CC", "MLO", "MLO", "CC", "CC", "CC", "MLO", "CC"])
    moves = exchanges(patients, 60, 0, within=views)
    assert (views[moves] == views).all()
    assert (moves[:, 7] == 7).all()  # no other patient has only a CC view
    assert {tuple(patients[order[2:5]]) for order in moves} == {(0,) * 3, (1,) * 3, (2,) * 3}


@pytest.mark.parametrize(("patients", "estimable"), [(6, True), (5, False)])
def test_twenty_exchanges_are_enough_for_a_p_and_ten_are_not(rng, patients, estimable):
    label = np.arange(patients) < patients // 2  # 20 or 10 ways to choose the positive patients
    p = p_value(rng.normal(size=patients), label, np.arange(patients))
    assert np.isfinite(p) == estimable
    reason = ex.why_not_exchangeable(label, np.arange(patients))
    assert bool(reason) != estimable


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (60, 4)])
def test_equal_scores_share_the_mean_of_their_ranks(rng, shape):
    scores = rng.integers(0, 7, size=shape) / 4
    assert np.array_equal(ex.mid_ranks(scores), stats.rankdata(scores, axis=0))

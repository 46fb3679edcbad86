import math

import numpy as np
import pytest
from scipy.stats import beta

from companion.abstention import risk_coverage, selective_accuracy, threshold_for

SCORES, CORRECT = [0.9, 0.6, 0.8, 0.7], [True, False, True, False]


def drawn(seed, count, levels=None):
    """Scores, and answers that are right as often as the score says; of few levels: ties."""
    random = np.random.default_rng(seed)
    scores = random.random(count) if levels is None else random.integers(1, levels, count) / levels
    return scores, random.random(count) < scores


def test_a_curve_by_hand():
    curve = risk_coverage(SCORES, CORRECT)
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 0, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_equal_scores_are_one_step():
    curve = risk_coverage([0.5, 0.9, 0.5, 0.5], [1, 1, 0, 0])
    np.testing.assert_allclose(curve, [[0.9, 0.5], [0.25, 1], [0, 0.5]])
    assert curve.area == pytest.approx(0.75 * 0.5)


def test_the_surest_answer_counts_in_the_area():
    assert risk_coverage([0.9, 0.5], [False, True]).area == pytest.approx(0.5 * 1 + 0.5 * 0.5)


@pytest.mark.parametrize("levels", [None, 7])
def test_each_point_is_what_counting_gives(levels):
    scores, correct = drawn(0, 200, levels)
    for threshold, coverage, risk in zip(*risk_coverage(scores, correct), strict=True):
        answered = scores >= threshold
        assert coverage == pytest.approx(answered.mean())
        assert risk == pytest.approx(1 - correct[answered].mean())


def test_the_area_of_useful_scores_is_below_that_of_useless_ones():
    scores, correct = drawn(1, 2000)
    useless = risk_coverage(np.random.default_rng(2).random(2000), correct).area
    assert risk_coverage(scores, correct).area < useless - 0.2
    assert risk_coverage(-scores, correct).area > useless + 0.2
    assert useless == pytest.approx(1 - correct.mean(), abs=0.05)


@pytest.mark.parametrize("levels", [None, 7])
@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9])
def test_the_threshold_is_the_lowest_that_will_do(accuracy, levels):
    scores, correct = drawn(3, 150, levels)
    good = [one for one in set(scores) if correct[scores >= one].mean() >= accuracy]
    assert threshold_for(scores, correct, accuracy) == min(good, default=math.inf)


def test_thresholds_by_hand():
    assert threshold_for(SCORES, CORRECT, 1) == 0.8
    assert threshold_for(SCORES, CORRECT, 2 / 3) == 0.7
    assert threshold_for(SCORES, CORRECT, 0.5) == 0.6
    assert threshold_for([0.1, 0.2], [True, False], 0.9) == math.inf
    assert threshold_for([0.3] * 5, [True] * 5, 0.9, confidence=0.9) == math.inf  # 0.9 ** 5 > 0.1


def test_an_accuracy_that_is_reached_exactly_is_reached():
    for count in range(1, 40):
        for right in range(1, count + 1):
            assert threshold_for([0.5] * count, np.arange(count) < right, right / count) == 0.5


def test_with_confidence_the_promise_holds_for_new_cases_and_costs_coverage():
    """Right as often as the score says: above a threshold t, (1 + t) / 2."""
    broken = {None: 0, 0.9: 0}
    for seed in range(200):
        sample = drawn(seed, 300)
        found = {confidence: threshold_for(*sample, 0.8, confidence) for confidence in broken}
        assert found[None] <= found[0.9]
        for confidence, threshold in found.items():
            broken[confidence] += (1 + threshold) / 2 < 0.8
    assert broken[0.9] <= 20 and broken[None] > 60  # of 200


def test_with_confidence_the_error_is_shared_among_the_looks():
    """Right down to a score, wrong below it: from there on the bound falls."""
    scores, correct = np.arange(300, 0, -1), np.arange(300) < 200
    tail = (1 - 0.9) / (math.ceil(math.log2(300)) + 1)
    bounds = [beta.ppf(tail, 200, answered - 199) for answered in range(200, 301)]
    answered = 200 + sum(bound >= 0.8 for bound in bounds) - 1
    assert threshold_for(scores, correct, 0.8, confidence=0.9) == scores[answered - 1]


def test_with_confidence_many_cases_reach_nearly_the_whole_coverage():
    threshold = threshold_for(*drawn(5, 20_000), 0.8, confidence=0.9)
    assert 0.58 < threshold < 0.65  # 0.6 is exact


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (3, 7), (95, 100), (1900, 2000)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_that_of_clopper_and_pearson(right, count, level):
    correct = np.arange(count + 5) < right
    scores = np.where(np.arange(count + 5) < count, 1, 0)
    score = selective_accuracy(scores, correct, 0.5, level)
    tail = (1 - level) / 2
    low = beta.ppf(tail, right, count - right + 1) if right else 0
    high = beta.ppf(1 - tail, right + 1, count - right) if right < count else 1
    assert (score.low, score.high) == pytest.approx((low, high), abs=1e-9)
    assert score.accuracy == right / count and score.answered == count
    assert score.coverage == count / (count + 5)


def test_a_score_equal_to_the_threshold_is_answered():
    score = selective_accuracy(SCORES, CORRECT, 0.8)
    assert score[:1] + score[3:] == (1.0, 0.5, 2)


def test_nothing_answered_is_no_number():
    score = selective_accuracy(SCORES, CORRECT, math.inf)
    assert math.isnan(score.accuracy) and score[1:] == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: risk_coverage([], []), r"rows of one length, at least 1; received shapes \(0,\) and \(0,\)"),
        (lambda: risk_coverage([1, 2], [True]), r"of one length, .* received shapes \(2,\) and \(1,\)"),
        (lambda: risk_coverage([[1]], [[True]]), r"must be rows .* received shapes \(1, 1\)"),
        (lambda: risk_coverage([np.nan, 1], [1, 1]), "scores must be finite; received nan"),
        (lambda: risk_coverage([1, 1], [1, 2]), "correct must be bools, or 0 and 1; received 2.0"),
        (lambda: threshold_for([1], [1], 0), r"accuracy must be in \(0, 1\]; received 0"),
        (lambda: threshold_for([1], [1], 95), r"accuracy must be in \(0, 1\]; received 95"),
        (lambda: threshold_for([1], [1], 0.9, 1.0), r"confidence must be None or in \(0, 1\); received 1.0"),
        (lambda: selective_accuracy([1], [1], np.nan), "threshold must be a number; received NaN"),
        (lambda: selective_accuracy([1], [1], 0.5, 95), r"level must be in \(0, 1\); received 95"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

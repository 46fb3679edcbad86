import numpy as np
import pytest

from companion.scaling import PowerLaw, fit_power_law, power_law_interval

SIZES = np.array([1e3, 4e3, 1.6e4, 6.4e4, 2.56e5])
TRUTH = PowerLaw(floor=1.7, scale=2e4, exponent=0.35)


def noisy(seed, runs=2, spread=0.01):
    noise = np.random.default_rng(seed).normal(scale=spread, size=(len(SIZES), runs))
    return TRUTH.predict(SIZES)[:, None] * np.exp(noise)


def test_a_law_by_hand():
    law = PowerLaw(floor=1.0, scale=400.0, exponent=0.5)
    np.testing.assert_allclose(law.predict([100, 400, 1600]), [3.0, 2.0, 1.5])


@pytest.mark.parametrize(
    "truth", [TRUTH, PowerLaw(0.5, 1e3, 0.8), PowerLaw(3.0, 1e5, 0.1), PowerLaw(2.0, 10.0, 0.5)]
)
def test_the_numbers_of_a_law_without_noise_are_found(truth):
    np.testing.assert_allclose(fit_power_law(SIZES, truth.predict(SIZES)), truth, rtol=1e-3)


def test_the_law_of_kaplan_has_no_floor():
    """Kaplan et al. 2020, equation 1.1: N_c = 8.8e13, alpha = 0.076."""
    truth = PowerLaw(0.0, 8.8e13, 0.076)
    found = fit_power_law([1e3, 1e5, 1e7, 1e9], truth.predict([1e3, 1e5, 1e7, 1e9]))
    assert found.floor < 1e-2 and found.exponent == pytest.approx(0.076, rel=1e-2)
    np.testing.assert_allclose(found.predict([1e11]), truth.predict([1e11]), rtol=1e-3)


def test_neither_order_nor_the_unit_of_size_matters():
    losses, order = noisy(0), np.array([3, 0, 4, 2, 1])
    law, other = fit_power_law(SIZES, losses), fit_power_law(1000 * SIZES[order], losses[order])
    np.testing.assert_allclose(other, (law.floor, 1000 * law.scale, law.exponent), rtol=1e-3)


def test_equal_runs_are_one_run():
    losses = noisy(0)[:, 0]
    np.testing.assert_allclose(
        fit_power_law(SIZES, np.stack([losses] * 3, axis=1)), fit_power_law(SIZES, losses), rtol=1e-4
    )


@pytest.mark.parametrize("seed", range(3))
def test_predictions_fall_and_stay_above_the_floor(seed):
    law = fit_power_law(SIZES, noisy(seed, spread=0.05))
    curve = law.predict(np.geomspace(1e2, 1e9, 50))
    assert (np.diff(curve) < 0).all() and (curve >= law.floor).all()


def test_losses_that_rise_are_not_explained():
    law = fit_power_law(SIZES, [2.0, 2.1, 2.2, 2.3, 2.4])
    curve = law.predict(SIZES)
    assert np.isfinite(curve).all() and (np.diff(curve) <= 0).all()


def test_the_interval_covers_the_truth():
    at, covered = np.array([1.6e4, 1e6]), np.zeros(2)
    for seed in range(8):
        low, high = power_law_interval(SIZES, noisy(seed), at, resamples=60)
        assert (low < high).all() and high[1] - low[1] > high[0] - low[0]  # farther off, wider
        covered += (low <= TRUTH.predict(at)) & (TRUTH.predict(at) <= high)
    assert (covered >= 6).all()


def test_the_interval_is_a_point_without_noise_and_repeatable_with_it():
    exact = TRUTH.predict(SIZES)
    for bound in power_law_interval(SIZES, exact, [1e6], resamples=5):
        np.testing.assert_allclose(bound, TRUTH.predict([1e6]), rtol=1e-3)
    first, again = (power_law_interval(SIZES, noisy(1), [1e6], resamples=10, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    wide, narrow = (power_law_interval(SIZES, noisy(1), [1e6], level, 50) for level in (0.9, 0.3))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("sizes", "losses", "message"),
    [
        (SIZES[:3], [3, 2, 1], "sizes must be a row of at least 4 different numbers"),
        ([1, 2, 3, 3], [4, 3, 2, 1], "at least 4 different"),
        (SIZES[None], [[5, 4, 3, 2, 1]], "sizes must be a row"),
        (SIZES, [4, 3, 2, 1], r"losses must be \(S,\) or \(S, R\) for S = 5 sizes; received shape \(4,\)"),
        (SIZES, np.ones((5, 0)), r"received shape \(5, 0\)"),
        (SIZES, [5, 4, 3, 2, 0], "losses must be positive and finite"),
        (SIZES, [5, 4, 3, 2, np.nan], "losses must be positive and finite"),
        (-SIZES, [5, 4, 3, 2, 1], "sizes must be positive and finite"),
    ],
)
def test_bad_input_is_named(sizes, losses, message):
    for call in (fit_power_law, lambda a, b: power_law_interval(a, b, [1e6])):
        with pytest.raises(ValueError, match=message):
            call(sizes, losses)


def test_bad_settings_of_the_interval_are_named():
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\); received level=1"):
        power_law_interval(SIZES, noisy(0), [1e6], level=1)
    with pytest.raises(ValueError, match="resamples must be at least 1; received resamples=0"):
        power_law_interval(SIZES, noisy(0), [1e6], resamples=0)

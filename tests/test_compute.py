import math

import pytest

from companion.compute import batch_flops, gpt_parameters, pf_days, training_days, training_flops

GPT3 = {"layers": 96, "width": 12_288, "vocabulary": 51_200}


def test_gpt_3_takes_what_brown_says():
    """Brown et al. 2020, table D.1: 174,600 million weights, 300 billion tokens, 3.14E+23 flops, 3.64E+03."""
    flops = training_flops(174.6e9, 300e9)
    assert f"{flops:.2e}" == "3.14e+23"
    assert f"{pf_days(flops):.2e}" == "3.64e+03"
    assert training_flops(175e9, 300e9) == 3.15e23


def test_a_petaflop_per_second_day():
    assert pf_days(8.64e19) == 1


def test_gpt_3_on_1024_a100_takes_34_days():
    """Narayanan et al. 2021, section 5.1: P = 175 billion, T = 300 billion, 1,024 GPUs at 140 teraFLOP/s."""
    flops = training_flops(175e9, 300e9, recompute=True)
    assert training_days(flops, 1024, 140e12) == pytest.approx(33.9, abs=0.05)


def test_a_trillion_weights_on_3072_a100_take_84_days():
    """Section 5.1 again: 1 trillion weights, 450 billion tokens, 163 teraFLOP/s."""
    flops = training_flops(1e12, 450e9, recompute=True)
    assert training_days(flops, 3072, 163e12) == pytest.approx(84, abs=1)


def test_gpt_3_on_one_v100_takes_355_years():
    assert training_days(3.14e23, 1, 28e12) / 365.25 == pytest.approx(355, abs=1)


def test_the_parameters_of_gpt_3_and_of_gpt_2():
    assert gpt_parameters(length=2048, **GPT3) == pytest.approx(174.6e9, rel=1e-3)
    assert gpt_parameters(12, 768, 50_257, 1024) == 124_439_808  # the smallest published GPT-2, exactly


def test_the_parameters_are_those_of_our_model():
    from companion.models import gpt

    model = gpt(50, 16, model_dim=24, num_heads=3, hidden_dim=96, num_layers=2)
    assert model.count_params() == gpt_parameters(2, 24, 50, 16)


def test_a_step_is_counted_as_equation_3_writes_it():
    batch, s, layers, h, v = 1536, 2048, 96, 12_288, 51_200
    expected = 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert batch_flops(batch, s, layers, h, v) == pytest.approx(expected, rel=1e-12)


def test_a_step_is_counted_product_by_product():
    batch, s, layers, h, v = 3, 5, 2, 8, 11
    projections = 4 * 2 * s * h * h  # queries, keys, values, output
    attention = 2 * 2 * s * s * h  # scores, mixture
    feed_forward = 2 * 2 * s * h * 4 * h
    forward = layers * (projections + attention + feed_forward)
    logits = 2 * s * h * v
    assert batch_flops(batch, s, layers, h, v, recompute=False) == batch * 3 * (forward + logits)
    assert batch_flops(batch, s, layers, h, v) == batch * (4 * forward + 3 * logits)


@pytest.mark.parametrize("recompute", [False, True])
def test_both_formulas_agree_on_a_wide_model(recompute):
    step = batch_flops(1, 2048, recompute=recompute, **GPT3)
    rough = training_flops(gpt_parameters(length=2048, **GPT3), 2048, recompute)
    assert 1 < step / rough < 1.05


@pytest.mark.parametrize(
    ("parameters", "chips", "each"), [(110e6, 16, 5.08e12), (340e6, 64, 3.93e12)], ids=["base", "large"]
)
def test_four_days_of_bert_imply_a_modest_speed(parameters, chips, each):
    """Devlin et al. 2019, appendix A.2: a million steps of 256 texts, nine tenths of them of 128 tokens and
    one of 512. From the days follows the speed, and from the speed the days."""
    tokens = 1e6 * 256 * (0.9 * 128 + 0.1 * 512)
    flops = training_flops(parameters, tokens)
    speed = flops / (chips * 4 * 86_400)
    assert speed == pytest.approx(each, rel=5e-3)
    assert training_days(flops, chips, speed) == pytest.approx(4)


def test_twice_the_devices_take_half_the_days():
    days = training_days(1e20, 8, 1e12)
    assert days == 2 * training_days(1e20, 16, 1e12) == 4 * training_days(1e20, 16, 2e12)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda bad: training_flops(bad, 1), "parameters"),
        (lambda bad: training_flops(1, bad), "tokens"),
        (lambda bad: batch_flops(1, 1, bad, 1, 1), "layers"),
        (lambda bad: gpt_parameters(1, 1, 1, bad), "length"),
        (lambda bad: training_days(1e9, bad, 1), "devices"),
        (lambda bad: training_days(1e9, 1, bad), "flops_per_second"),
        (lambda bad: pf_days(bad), "flops"),
    ],
)
@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_bad_numbers_are_named(call, name, bad):
    expected = f"^{name} must be a finite number of at least 1; received {name}={bad}"
    with pytest.raises(ValueError, match=expected):
        call(bad)

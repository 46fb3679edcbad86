"""Which tokens are masked and which spans are taken out: counts, proportions, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.objectives import mask_tokens, masked_per_row, restore_spans, span_corruption, span_counts

SENTINELS = range(99, 59, -1)
SPECIAL = (0, 1, 2, 3)


def masked(tokens, seed=0, share=0.15):
    return mask_tokens(np.asarray(tokens), 50, 4, SPECIAL, np.random.default_rng(seed), share)


# Masked tokens


@pytest.mark.parametrize(
    ("length", "share", "count"), [(128, 0.15, 19), (512, 0.15, 77), (1, 0.15, 1), (10, 0.5, 5)]
)
def test_so_many_tokens_of_a_row_are_chosen(length, share, count):
    assert masked_per_row(length, share) == count
    tokens, weights = masked(np.full((6, length), 9), share=share)
    assert weights.sum(axis=1).tolist() == [count] * 6
    assert (tokens.dtype, weights.dtype) == ("int32", "float32")


def test_only_chosen_tokens_change_and_the_argument_does_not(rng):
    tokens = rng.integers(0, 50, (40, 30))
    before = tokens.copy()
    read, weights = masked(tokens)
    np.testing.assert_array_equal(tokens, before)
    np.testing.assert_array_equal(read[weights == 0], tokens[weights == 0])
    assert set(np.unique(weights)) == {0, 1}


def test_of_the_chosen_80_percent_are_masks_10_percent_others_10_percent_stay():
    read, weights = masked(np.full((2000, 100), 9))
    chosen = read[weights == 1]
    others = chosen[(chosen != 4) & (chosen != 9)]
    assert len(chosen) == 2000 * 15
    assert abs(np.mean(chosen == 4) - 0.8) < 0.01
    assert abs(len(others) / len(chosen) - 0.1 * 44 / 45) < 0.01  # a random token may be the same one
    assert set(others) == set(range(5, 50)) - {9}  # every ordinary token, and no special one
    counts = np.bincount(others, minlength=50)[[*range(5, 9), *range(10, 50)]]
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.5 * counts.mean()


def test_every_position_is_chosen_as_often():
    _, weights = masked(np.full((4000, 20), 9))
    assert np.abs(weights.mean(axis=0) - 3 / 20).max() < 0.03


def test_special_tokens_are_never_chosen_even_if_few_others_remain():
    tokens = np.array([[1, 9, 3, 0, 4, 2], [1, 2, 3, 0, 0, 4], [9, 9, 9, 9, 9, 9]])
    read, weights = masked(tokens, share=0.5)
    assert weights.tolist()[:2] == [[0, 1, 0, 0, 0, 0], [0] * 6] and weights[2].sum() == 3
    np.testing.assert_array_equal(read[:, [0, 2, 3, 4, 5]][:2], tokens[:, [0, 2, 3, 4, 5]][:2])


def test_the_generator_decides_alone(rng):
    tokens = rng.integers(5, 50, (8, 40))
    for one, other in zip(masked(tokens, 1), masked(tokens, 1), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (masked(tokens, 1)[1] != masked(tokens, 2)[1]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((50, 4, SPECIAL, 0.0), "share must be above 0 and below 1; received share=0.0"),
        ((50, 4, SPECIAL, 1.0), "share must be above 0 and below 1; received share=1.0"),
        ((50, 50, SPECIAL, 0.15), r"must be some of the 50 token ids; received .*mask_id=50"),
        ((50, 4, (-1,), 0.15), r"special_ids and mask_id must be .*special_ids=\[-1\]"),
        ((5, 4, SPECIAL, 0.15), "must be some of the 5 token ids"),
    ],
)
def test_bad_numbers_for_masks_are_refused(rng, arguments, message):
    *ids, share = arguments
    with pytest.raises(ValueError, match=message):
        mask_tokens(np.full((2, 8), 3), *ids, rng, share)


# Spans


@pytest.mark.parametrize(
    ("length", "share", "mean_length", "counts"),
    [(512, 0.15, 3.0, (77, 26)), (568, 0.15, 3.0, (85, 28)), (10, 0.5, 1.0, (5, 5)), (2, 0.15, 3.0, (1, 1))],
)
def test_so_many_tokens_are_taken_out_in_so_many_spans(length, share, mean_length, counts):
    assert span_counts(length, share, mean_length) == counts


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=80),
    st.floats(0.01, 0.99),
    st.floats(1, 10),
    st.integers(0, 2**32),
)
def test_spans_can_be_put_back(tokens, share, mean_length, seed):
    rng = np.random.default_rng(seed)
    source, target = span_corruption(tokens, SENTINELS, rng, share, mean_length)
    assert restore_spans(source, target, SENTINELS).tolist() == tokens
    removed, spans = span_counts(len(tokens), share, mean_length)
    assert len(source) == len(tokens) - removed + spans and len(target) == removed + spans
    for side in (source, target):
        assert side.dtype == "int32"
        assert side[np.isin(side, SENTINELS)].tolist() == list(SENTINELS)[:spans]
    assert target[0] == source[-1 if spans == 1 else np.isin(source, SENTINELS).argmax()] == 99
    assert source[0] == tokens[0] and source[-1] in SENTINELS and target[-1] == tokens[-1]
    for side in (source, target):  # no two sentinels side by side: every stretch has a token
        marks = np.flatnonzero(np.isin(side, SENTINELS))
        assert (np.diff(marks) > 1).all()


def test_one_span_of_four_tokens_by_hand(rng):
    source, target = span_corruption([5, 6, 7, 8], SENTINELS, rng, 0.5, 2.0)
    assert (source.tolist(), target.tolist()) == ([5, 6, 99], [99, 7, 8])


def test_every_way_to_cut_is_as_likely(rng):
    draws = [tuple(span_corruption(range(8), SENTINELS, rng, 0.5, 2.0)[1]) for _ in range(1800)]
    ways = {way: draws.count(way) for way in set(draws)}
    assert len(ways) == 9  # three ways to cut the four kept, three to cut the four taken out
    assert min(ways.values()) > 140 and max(ways.values()) < 260


def test_what_a_model_wrote_is_put_in_as_far_as_it_goes():
    source = [5, 99, 6, 98, 7]
    assert restore_spans(source, [99, 1, 2, 98, 3], SENTINELS).tolist() == [5, 1, 2, 6, 3, 7]
    assert restore_spans(source, [8, 98, 3], SENTINELS).tolist() == [5, 6, 3, 7]
    assert restore_spans(source, [97, 1, 99, 2], SENTINELS).tolist() == [5, 2, 6, 7]
    assert restore_spans(source, [], SENTINELS).tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        ([5], {}, "length must be at least 2; received length=1"),
        ([5, 6], {"mean_length": 0.5}, "mean_length must be at least 1; received mean_length=0.5"),
        ([5, 6], {"share": 1.0}, "share must be above 0 and below 1; received share=1.0"),
        ([5, 99], {}, "sentinels must be 1 or more ids .* received 40, 1 of them found there"),
        (
            [5] * 100,
            {"share": 0.5, "mean_length": 1},
            "sentinels must be 50 or more ids .* received 40, 0 of",
        ),
    ],
)
def test_bad_numbers_for_spans_are_refused(rng, tokens, settings, message):
    with pytest.raises(ValueError, match=message):
        span_corruption(tokens, SENTINELS, rng, **settings)

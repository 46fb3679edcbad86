"""Prompts and settings of a generation: their forms, their defaults, and what is refused."""

import functools
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from companion import generate, gpt, lstm_seq2seq, transformer
from companion.decoding import Decoder
from companion.prompts import make_task

pytestmark = pytest.mark.backend
V = 12
DEFAULTS = {x.name: x.default for x in inspect.signature(generate).parameters.values()}
LETTERS = SimpleNamespace(
    padding_id=1, begin_id=4, end_id=5, encode=lambda text: [ord(c) - ord("a") + 6 for c in text]
)


@functools.cache
def decoder(name):
    models = {
        "gpt": lambda: gpt(V, 70, 8, 2, 16, 1),
        "transformer": lambda: transformer(10, V, 70, 8, 2, 16, 1),
        "lstm": lambda: lstm_seq2seq(12, V, 8, 8),
    }
    return Decoder(models[name]())


def task(prompts, name="gpt", **settings):
    return make_task(decoder(name), prompts, DEFAULTS | {"max_length": 8} | settings)


def test_prompts_may_be_an_array_lists_or_strings():
    expected = np.zeros((2, 32), "int32")
    expected[0, :3], expected[1, :1] = [6, 7, 8], [9]
    for prompts in (np.array([[6, 7, 8, 0], [9, 0, 0, 0]]), [[6, 7, 8], [9]], [np.array([6, 7, 8]), (9,)]):
        made = task(prompts)
        np.testing.assert_array_equal(made.targets, expected)
        assert made.given["lengths"].tolist() == [3, 1] and made.given["limits"].tolist() == [11, 9]
        assert made.sources == [] and made.prompt_width == 32 and made.cache_length == 32
    made = task(["abc", "d"], tokenizer=LETTERS)
    np.testing.assert_array_equal(made.targets, np.where(expected > 0, expected, 1))
    np.testing.assert_array_equal(task("abc", tokenizer=LETTERS).targets, made.targets[:1])


def test_lists_are_taken_as_they_are_and_empty_prompts_begin():
    assert task([[6, 0], [0], []]).given["lengths"].tolist() == [2, 1, 1]
    assert task([[6, 0], [0], []]).targets[:, 0].tolist() == [6, 0, 2]
    assert task(np.zeros((1, 3), int), begin_id=7).targets[0, :2].tolist() == [7, 0]


def test_sources_are_padded_and_their_targets_begin():
    made = task([[5, 6], []], "transformer", begin_id=7, padding_id=1)
    assert made.sources[0].shape == (2, 32) and made.sources[0].sum() == 11 + 30 + 32
    assert made.targets[:, :2].tolist() == [[7, 1]] * 2 and made.prompt_width == 1


@pytest.mark.parametrize(
    ("prompt", "max_length", "targets", "cache", "width"),
    [
        (1, 31, 32, 32, 32),
        (1, 32, 64, 64, 32),
        (33, 20, 64, 64, 64),
        (60, 11, 71, 70, 64),
        (70, 1, 71, 70, 70),
    ],
)
def test_lengths_are_rounded_up_as_far_as_the_model_goes(prompt, max_length, targets, cache, width):
    made = task([[5] * prompt], max_length=max_length)
    assert (made.targets.shape[1], made.cache_length, made.prompt_width) == (targets, cache, width)


def test_special_ids_come_from_the_call_the_tokenizer_or_the_house():
    made = task([[]])
    assert made.targets[0, :2].tolist() == [2, 0] and made.ends == [3]
    assert np.flatnonzero(~made.given["allowed"]).tolist() == [0, 2]
    made = task([[]], tokenizer=LETTERS)
    assert made.targets[0, :2].tolist() == [4, 1] and made.ends == [5] and made.given["padding_id"] == 1
    assert np.flatnonzero(~made.given["allowed"]).tolist() == [1, 4]
    made = task([[]], tokenizer=LETTERS, begin_id=0, end_id=[7, 0], padding_id=8)
    assert made.targets[0, :2].tolist() == [0, 8] and np.flatnonzero(made.given["ends"]).tolist() == [0, 7]
    assert np.flatnonzero(~made.given["allowed"]).tolist() == [8]  # 0 ends, so that it must be written
    endless = SimpleNamespace(padding_id=1, begin_id=4, end_id=None)
    assert task([[]], tokenizer=endless).ends == task([[]], end_id=()).ends == []


def test_each_row_draws_from_the_end_of_its_prompt():
    made = task([[5], [5, 6, 7]], strategy="sample", seed=3)
    draws = np.random.default_rng(3).random((8, 2), "float32")
    np.testing.assert_array_equal(made.given["uniforms"][1:9, 0], draws[:, 0])
    np.testing.assert_array_equal(made.given["uniforms"][3:11, 1], draws[:, 1])
    longer = task([[5], [5, 6, 7]], max_length=20, strategy="sample", seed=3)
    np.testing.assert_array_equal(longer.given["uniforms"][1:9, 0], draws[:, 0])


def test_what_a_strategy_does_not_need_is_not_compiled_in():
    plain = task([[5]], top_k=3, top_p=0.5, min_p=0.5, beam_size=7, end_id=[3, 4]).search
    assert plain == task([[5]]).search
    assert (
        task([[5]], strategy="sample", top_p=1.0, min_p=0.0).search == task([[5]], strategy="sample").search
    )
    assert task([[5]], strategy="beam", end_id=[3, 4]).search.num_candidates == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, r"max_length must be from 1 to 69, what prompts leave .*; received .*=0\."),
        ({"max_length": 70}, r"max_length must be from 1 to 69, .* the model's own max_length; received"),
        ({"max_length": 1.5}, r"max_length must be from 1 .* received max_length=1\.5\."),
        ({"strategy": "magic"}, r"strategy must be one of greedy, sample, beam; received strategy='magic'\."),
        ({"beam_size": 0}, r"beam_size must be from 1 to the vocabulary size, 12; received beam_size=0\."),
        ({"beam_size": 13}, r"beam_size must be from 1 to the vocabulary size, 12; received beam_size=13\."),
        ({"temperature": 0.0}, r"temperature must be from 1e-30 to 1e30; received temperature=0\.0\."),
        ({"temperature": np.inf}, r"temperature must be from 1e-30 to 1e30; received temperature=inf\."),
        ({"temperature": np.nan}, r"temperature must be from 1e-30 to 1e30; received temperature=nan\."),
        ({"length_penalty": -np.inf}, r"length_penalty must be from -10 to 10; received .*=-inf\."),
        ({"length_penalty": np.nan}, r"length_penalty must be from -10 to 10; received length_penalty=nan\."),
        ({"top_k": 0}, r"top_k must be None or from 1 to the vocabulary size, 12; received top_k=0\."),
        ({"top_k": 13}, r"top_k must be None or .* received top_k=13\."),
        ({"top_p": 0.0}, r"top_p must be None, or above 0 and at most 1; received top_p=0\.0\."),
        ({"top_p": 1.1}, r"top_p must be None, or above 0 and at most 1; received top_p=1\.1\."),
        ({"min_p": -0.1}, r"min_p must be None, or from 0 to 1; received min_p=-0\.1\."),
        ({"min_p": 1.1}, r"min_p must be None, or from 0 to 1; received min_p=1\.1\."),
        ({"repetition_penalty": 0}, r"repetition_penalty must be above 0 and finite; received .*=0\."),
        ({"repetition_penalty": np.nan}, r"repetition_penalty must be above 0 and finite; received .*=nan\."),
        ({"begin_id": 12}, r"begin_id must be from 0 to 11; received begin_id=12\."),
        ({"padding_id": -1}, r"padding_id must be from 0 to 11; received padding_id=-1\."),
        ({"end_id": 12}, r"end_id must be from 0 to 11; received end_id=\[12\]\."),
        ({"end_id": [3, -1]}, r"end_id must be from 0 to 11; received end_id=\[3, -1\]\."),
        ({"suppress_ids": [12]}, r"suppress_ids must be from 0 to 11, but not all .*; received .*=\[12\]\."),
        ({"suppress_ids": range(12)}, r"suppress_ids must be from 0 to 11, but not all of them; received"),
        ({"stop_strings": ["a"]}, r"stop_strings must be a list .* with a tokenizer, .*=\['a'\]\."),
        ({"stop_strings": "a", "tokenizer": LETTERS}, r"stop_strings must be a list .* stop_strings='a'\."),
        ({"stop_strings": [""], "tokenizer": LETTERS}, r"stop_strings must be .* none empty, .*=\[''\]\."),
        (
            {"stop_strings": ["a"], "tokenizer": LETTERS, "strategy": "beam"},
            r"stop_strings must be .* and not for beam search; received stop_strings=\['a'\]\.",
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        task([[5, 6]], **settings)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[5, 12]], r"prompts must hold ids in \[0, 12\); received 5 to 12\."),
        ([[5], [-1, 4]], r"prompts must hold ids in \[0, 12\); received -1 to 4\."),
        (
            np.array([[1.5, 4.0]]),
            r"prompts must be rows of ints, .*; received a row of float64 of shape \(2,\)\.",
        ),
        ([5, 6], r"prompts must be rows of ints, .*; received a row of int64 of shape \(\)\."),
        ([[[5]]], r"prompts must be rows of ints, .*; received a row of int64 of shape \(1, 1\)\."),
        ([[5], [5] * 71], r"prompts must have at most 70 tokens; received one of 71\."),
        ("abc", r"tokenizer must be given for prompts that are strings; received None\."),
        (["abc"], r"tokenizer must be given for prompts that are strings; received None\."),
    ],
)
def test_bad_prompts_are_refused(prompts, message):
    for name in ("gpt", "lstm"):
        if name == "gpt" or "at most" not in message:  # a recurrent model has no limit
            with pytest.raises(ValueError, match=message):
                task(prompts, name, use_cache=False)


def test_one_dimensional_arrays_are_refused():
    with pytest.raises(ValueError, match=r"prompts must be rows of ints"):
        task(np.array([5, 6]))


def test_each_side_has_the_vocabulary_that_reads_it():
    with pytest.raises(ValueError, match=r"prompts must hold ids in \[0, 10\); received 11 to 11\."):
        task([[11]], "transformer")
    with pytest.raises(ValueError, match=r"max_length must be from 1 to 70, what prompts leave"):
        task([[9] * 70], "transformer", max_length=71)
    with pytest.raises(ValueError, match=r"max_length must be at least 1; received max_length=0\."):
        task([[5]], "lstm", max_length=0, use_cache=False)


def test_a_cache_needs_decoder_blocks():
    with pytest.raises(
        ValueError, match=r"use_cache must be False for a model .*; received use_cache=True\."
    ):
        task([[5]], "lstm")


def test_sampling_among_one_token_is_greedy():
    assert task([[5]], strategy="sample", top_k=1, top_p=0.5).search == task([[5]]).search

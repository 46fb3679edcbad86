"""Rewards and preferences: exact gradients on toys, closed forms, a tiny model that learns by trial."""

import keras
import numpy as np
import pytest
from keras import ops

from companion.models import gpt
from companion.preference import (
    advantages,
    answer_batch,
    dpo_loss,
    reinforce,
    reinforce_loss,
    sample_answers,
    scorer,
    sequence_log_probability,
)

pytestmark = pytest.mark.backend
END = 3


def numpy_of(tensor):
    return ops.convert_to_numpy(tensor)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def small_gpt(vocabulary_size=6, max_length=12):
    keras.utils.set_random_seed(1)
    return gpt(vocabulary_size, max_length, 16, num_heads=2, hidden_dim=32, num_layers=1, dropout=0.0)


def table_model(logits):
    """The next token depends on the last one alone: row i scores what follows token i."""
    layer = keras.layers.Embedding(len(logits), len(logits))
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, layer(tokens))
    layer.set_weights([np.array(logits, "float32")])
    return model


def test_equal_logits_give_every_token_the_same_probability():
    mask = np.array([[True, True, False], [True, False, False]])
    found = sequence_log_probability(np.zeros((2, 3, 4)), np.array([[0, 1, 2], [3, 3, 3]]), mask)
    np.testing.assert_allclose(numpy_of(found), [-2 * np.log(4), -np.log(4)], rtol=1e-6)


def test_log_probabilities_are_those_of_the_softmax(rng):
    logits, tokens = rng.normal(size=(3, 5, 7)), rng.integers(7, size=(3, 5))
    mask = rng.random((3, 5)) < 0.6
    rows = [[log_softmax(logits[b, t])[tokens[b, t]] * mask[b, t] for t in range(5)] for b in range(3)]
    found = numpy_of(sequence_log_probability(logits, tokens, mask))
    np.testing.assert_allclose(found, np.sum(rows, axis=1), rtol=1e-5)


def test_a_forbidden_token_that_does_not_count_does_no_harm():
    logits = np.array([[[0.0, 0.0], [0.0, -np.inf]]])
    found = sequence_log_probability(logits, np.array([[0, 1]]), np.array([[True, False]]))
    np.testing.assert_allclose(numpy_of(found), [-np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3), (2, 3)), ((2, 3, 4), (2, 2), (2, 3))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"must be \(B, T, V\), \(B, T\) and \(B, T\); received"):
        sequence_log_probability(*map(np.zeros, shapes))


def test_a_batch_holds_prompt_answer_padding_and_counts_the_answer_only():
    tokens, scored = answer_batch([[2], [2, 4]], [[[5, 3], [4]], [[3], [5, 5, 5, 5]]], length=5)
    assert tokens.tolist() == [[[2, 5, 3, 0, 0], [2, 4, 0, 0, 0]], [[2, 4, 3, 0, 0], [2, 4, 5, 5, 5]]]
    assert scored.tolist()[0] == [[False, True, True, False, False], [False, True, False, False, False]]
    assert scored.tolist()[1] == [[False, False, True, False, False], [False, False, True, True, True]]
    assert tokens.dtype == np.int32 and scored.dtype == bool


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([[2]], [], "answers must be K for each prompt; received 1 prompts, 0 rows"),
        ([[2], [2]], [[[3]], [[3], [3]]], r"received 2 prompts, 2 rows of \[1, 2\] answers"),
        ([[]], [[[3]]], "prompts must have 1 to length - 1 = 3 tokens; received 0 to 0"),
        ([[2, 2, 2, 2]], [[[3]]], "received 4 to 4"),
    ],
)
def test_batches_that_do_not_fit_are_refused(prompts, answers, message):
    with pytest.raises(ValueError, match=message):
        answer_batch(prompts, answers, length=4)


def test_a_scorer_adds_up_what_the_model_says_about_each_token_of_the_answer():
    model = small_gpt()
    prompts, answers = [[2, 4], [2]], [[[5, 5, 3], [4, 3]], [[1, 4, 5, 3], [3]]]
    found = scorer(model, 2, 8).predict(answer_batch(prompts, answers, 8), verbose=0)
    for prompt, some, scores in zip(prompts, answers, found, strict=True):
        for answer, score in zip(some, scores, strict=True):
            logs = log_softmax(numpy_of(model(np.array([prompt + answer])))[0])
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            expected = sum(logs[t, token] for t, token in zip(places, answer, strict=True))
            assert score == pytest.approx(expected, abs=1e-4)


def test_the_probabilities_of_all_answers_add_up_to_one():
    every = [[[a, b] for a in range(6) for b in range(6)]]
    found = scorer(small_gpt(), 36, 3).predict(answer_batch([[2]], every, 3), verbose=0)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-4)


def test_a_scorer_has_sizes():
    with pytest.raises(ValueError, match="answers must be at least 1; received answers=0"):
        scorer(small_gpt(), 0, 4)
    with pytest.raises(ValueError, match="length must be at least 2; received length=1"):
        scorer(small_gpt(), 1, 1)


def test_dpo_loss_by_hand():
    start = np.array([[-5.0, -7.0], [-5.0, -7.0], [-1.0, -1.0]])
    now = np.array([[-5.0, -7.0], [-4.0, -9.0], [-9.0, -1.0]])
    expected = [np.log(2), np.log(1 + np.exp(-0.5 * 3)), np.log(1 + np.exp(0.5 * 8))]
    np.testing.assert_allclose(numpy_of(dpo_loss(start, now, beta=0.5)), expected, rtol=1e-5)


def test_the_gradient_of_dpo_is_beta_times_how_wrong_the_judgment_is():
    """Rafailov et al. 2023, section 4: sigmoid of minus the margin; up for the chosen, down for the other."""
    start, now, beta, step = np.array([[-5.0, -7.0]]), np.array([[-4.0, -5.0]]), 0.5, 1e-2
    slopes = []
    for column in np.eye(2):
        up, down = (dpo_loss(start, now + sign * step * column, beta) for sign in (1, -1))
        slopes.append((numpy_of(up)[0] - numpy_of(down)[0]) / (2 * step))
    wrong = 1 / (1 + np.exp(beta * (1.0 - 2.0)))
    np.testing.assert_allclose(slopes, [-beta * wrong, beta * wrong], rtol=1e-2)


def test_dpo_refuses_what_is_no_pair():
    with pytest.raises(ValueError, match=r"must be \(B, 2\), chosen first; received \[\(4, 3\), \(4, 2\)\]"):
        dpo_loss(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="beta must be positive; received beta=0"):
        dpo_loss(np.zeros((4, 2)), np.zeros((4, 2)), beta=0)


def test_dpo_teaches_a_model_which_answer_is_better():
    inputs = answer_batch([[2]] * 4, [[[4, 3], [5, 3]]] * 4, length=4)
    pair = scorer(small_gpt(), 2, 4)
    start = pair.predict(inputs, verbose=0)
    pair.compile(keras.optimizers.SGD(1.0), dpo_loss, jit_compile=False)
    losses = pair.fit(inputs, start, epochs=5, verbose=0).history["loss"]
    gain = pair.predict(inputs, verbose=0) - start
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5) and losses[-1] < losses[0]
    assert (gain[:, 0] > 0).all() and (gain[:, 1] < 0).all()


def test_advantages_by_hand():
    found = advantages([[1, 0, 0.5]], [[0.0, 2.0, 0.0]], beta=0.25)
    net = np.array([1, -0.5, 0.5])
    expected = [net[0] - net[1:].mean(), net[1] - net[[0, 2]].mean(), net[2] - net[:2].mean()]
    np.testing.assert_allclose(found, [expected])
    assert not advantages(np.ones((2, 4)), np.zeros((2, 4)), beta=1).any()  # all alike: nothing to learn


@pytest.mark.parametrize(
    ("rewards", "ratio", "beta", "message"),
    [
        ([[1.0]], [[0.0]], 0.1, r"must be \(B, K\), K at least 2; received \(1, 1\) and \(1, 1\)"),
        ([[1.0, 0]], [[0.0, 0, 0]], 0.1, r"received \(1, 2\) and \(1, 3\)"),
        ([[1.0, np.nan]], [[0.0, 0]], 0.1, "rewards and log_ratio must be finite; received"),
        ([[1.0, 0]], [[0.0, 0]], -1, "beta must be at least 0; received beta=-1"),
    ],
)
def test_advantages_of_what_does_not_fit_are_refused(rewards, ratio, beta, message):
    with pytest.raises(ValueError, match=message):
        advantages(rewards, ratio, beta)


def objective(logits, reward, start, beta):
    """Expected reward less beta times the divergence from the start, over the two answers there are."""
    p = np.exp(log_softmax(np.array(logits)))
    return (p * reward).sum() - beta * (p * np.log(p / start)).sum()


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_over_all_draws_the_mean_step_is_the_exact_policy_gradient(beta):
    """Probabilities 3/4 and 1/4: sixteen draws of two answers hold each pair as often as chance does."""
    logits, reward, start = [np.log(3), 0.0], np.array([1.0, 0.2]), np.array([0.5, 0.5])
    model = table_model([logits, [0.0, 0.0]])
    draws = [[[a], [b]] for a in (0, 0, 0, 1) for b in (0, 0, 0, 1)]
    inputs = answer_batch([[0]] * 16, draws, length=2)
    policy = scorer(model, 2, 2)
    drawn = np.array(draws)[:, :, 0]
    ratio = policy.predict(inputs, verbose=0) - np.log(start)[drawn]
    policy.compile(keras.optimizers.SGD(1.0), reinforce_loss, jit_compile=False)
    policy.train_on_batch(inputs, advantages(reward[drawn], ratio, beta))
    step = model.get_weights()[0] - [logits, [0.0, 0.0]]
    small = 1e-5
    exact = [
        (objective(logits + small * e, reward, start, beta) - objective(logits, reward, start, beta)) / small
        for e in np.eye(2)
    ]
    np.testing.assert_allclose(step, [exact, [0, 0]], atol=1e-4)
    assert abs(exact[0]) > 0.04
    assert ratio.mean() == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), abs=1e-5)  # the divergence


def test_answers_are_drawn_as_likely_as_the_model_finds_them(rng):
    model = small_gpt()
    model.set_weights([0.4 * rng.normal(size=weight.shape) for weight in model.get_weights()])
    logs = log_softmax(numpy_of(model(np.array([[2]])))[0, 0])
    (drawn,) = sample_answers(model, [[2]], 2000, max_length=1, seed=0)
    shares = np.bincount([answer[0] for answer in drawn], minlength=6) / 2000
    assert np.abs(shares - np.exp(logs)).max() < 0.04 and np.ptp(np.exp(logs)) > 0.1
    assert shares.all()  # padding and begin are tokens like any other


def test_answers_end_where_they_end_and_repeat_with_their_seed():
    model = small_gpt()
    drawn = sample_answers(model, [[2], [2, 4]], 20, max_length=5, seed=3)
    assert [len(some) for some in drawn] == [20, 20]
    answers = [answer for some in drawn for answer in some]
    assert all(END not in answer[:-1] for answer in answers)
    assert all(answer[-1] == END for answer in answers if len(answer) < 5)
    assert {len(answer) for answer in answers} == {1, 2, 3, 4, 5}
    assert sample_answers(model, [[2], [2, 4]], 20, max_length=5, seed=3) == drawn
    assert sample_answers(model, [[2], [2, 4]], 20, max_length=5, seed=4) != drawn


def share_of_fives(prompt, answer):
    assert prompt == [2] and END not in answer
    return answer.count(5) / 4


@pytest.fixture(scope="module")
def histories():
    """Thirty steps toward fives, free and held to the start."""
    model, found = small_gpt(), {}
    start = model.get_weights()
    for beta in (0.0, 2.0):
        model.set_weights(start)
        optimizer = keras.optimizers.Adam(0.02)
        settings = {"answers": 32, "beta": beta, "optimizer": optimizer, "max_length": 4}
        found[beta] = reinforce(model, [[2]], share_of_fives, 30, **settings)
    return found


def test_a_model_learns_by_trial(histories):
    free = histories[0.0]
    assert len(free) == 30 and free[0].reward < 0.4 and free[-1].reward > 0.9
    assert abs(free[0].kl) < 1e-5 and free[-1].kl > 1


def test_a_price_keeps_it_near_the_start_and_its_answers_various(histories):
    free, held = histories[0.0][-1], histories[2.0][-1]
    assert abs(held.kl) < 0.5 * free.kl and held.distinct > free.distinct + 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; received steps=0"),
        ({"answers": 1}, "answers must be at least 2; received answers=1"),
        ({"max_length": 0}, "max_length must be at least 1; received max_length=0"),
        ({"beta": -0.1}, "beta must be at least 0; received beta=-0.1"),
        ({"reward": lambda *_: float("nan")}, "rewards and log_ratio must be finite"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(settings, message):
    settings = {"reward": share_of_fives, "steps": 1, "answers": 2, "max_length": 4} | settings
    with pytest.raises(ValueError, match=message):
        reinforce(small_gpt(), [[2]], **settings)

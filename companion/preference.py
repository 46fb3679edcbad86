"""Learning from rewards and preferences: REINFORCE that stays near its start, and DPO (section 8.2)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from companion.base import check_at_least
from companion.generation import generate

Ids = Sequence[int]


class Step(NamedTuple):
    """One update: the answers' mean reward, mean log-ratio to the start (nats), share of different ones."""

    reward: float
    kl: float
    distinct: float


def sequence_log_probability(logits, tokens, mask):
    """How likely a model finds what was written: the sum of its tokens' log-probabilities.

    Args:
        logits: (B, T, V) float; those at t score the token at t.
        tokens: (B, T) int from 0 to V - 1.
        mask: (B, T) bool, True = counts.
    Returns:
        (B,) float32, nats, <= 0.
    Raises:
        ValueError: The shapes do not fit.
    """
    shapes = [tuple(array.shape) for array in (logits, tokens, mask)]
    if len(shapes[0]) != 3 or not shapes[0][:2] == shapes[1] == shapes[2]:
        raise ValueError(f"logits, tokens and mask must be (B, T, V), (B, T) and (B, T); received {shapes}.")
    logs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    logs = ops.take_along_axis(logs, ops.cast(tokens, "int32")[..., None], axis=-1)[..., 0]
    return ops.sum(ops.where(mask, logs, 0.0), axis=-1)  # not a product: -inf * 0 is no number


def scorer(model: keras.Model, answers: int, length: int) -> keras.Model:
    """A model that tells how likely a language model finds K answers to each of B prompts.

    It shares the language model's weights; who trains it trains them. Two losses are made for it:

        policy = scorer(model, answers, length)
        policy.compile(optimizer, reinforce_loss)  # labels: advantages (B, K)
        pair = scorer(model, 2, length)            # answers: the chosen one, then the rejected one
        start = pair.predict((tokens, scored))
        pair.compile(optimizer, dpo_loss)          # labels: start (B, 2)

    Args:
        model: Decoder-only, functional from tokens (B, T) int to logits (B, T, V), like `gpt`. Without
            dropout, or what is trained is not what is sampled.
        answers: K, >= 1.
        length: T, tokens of prompt and answer together, >= 2.
    Returns:
        Model from {"tokens": (B, K, T) int, "scored": (B, K, T) bool, True = of the answer}, as
        `answer_batch` makes them, to (B, K) float32, nats. The first token is never scored.
    Raises:
        ValueError: A size is too small.
    """
    check_at_least(1, answers=answers)
    check_at_least(2, length=length)
    tokens = keras.Input((answers, length), dtype="int32", name="tokens")
    scored = keras.Input((answers, length), dtype="bool", name="scored")
    rows, counts = ops.reshape(tokens, (-1, length)), ops.reshape(scored, (-1, length))
    total = sequence_log_probability(model(rows[:, :-1]), rows[:, 1:], counts[:, 1:])
    return keras.Model([tokens, scored], ops.reshape(total, (-1, answers)), name="scorer")


def reinforce_loss(advantages, log_probability):
    """Its gradient is minus the policy gradient: answers better than expected become likelier.

    Args:
        advantages: (B, K) float, by how much each answer was better than expected; not differentiated.
        log_probability: (B, K) float, of the answers, from `scorer`.
    Returns:
        (B, K) float. Only its gradient means something.
    Source: Williams 1992, section 4.
    """
    return -ops.stop_gradient(ops.cast(advantages, "float32")) * log_probability


def dpo_loss(start, log_probability, beta: float = 0.1):
    """How surprised the model is, seen as a judge of answers, that the chosen one was chosen.

    Args:
        start: (B, 2) float, nats: how likely the model found the chosen and the rejected answer at the start.
        log_probability: (B, 2) float, nats: how likely it finds them now.
        beta: Reward of a log-ratio of 1, > 0; the smaller, the farther the model may go.
    Returns:
        (B,) float, nats; log 2 at the start.
    Raises:
        ValueError: Another width, or beta is not positive.
    Source: Rafailov et al. 2023, equation 7.
    """
    shapes = [tuple(array.shape) for array in (start, log_probability)]
    if any(shape[-1:] != (2,) for shape in shapes):
        raise ValueError(f"start and log_probability must be (B, 2), chosen first; received {shapes}.")
    if not beta > 0:
        raise ValueError(f"beta must be positive; received beta={beta}.")
    gain = ops.cast(log_probability, "float32") - ops.cast(start, "float32")
    return ops.softplus(-beta * (gain[:, 0] - gain[:, 1]))  # -log sigmoid


def advantages(rewards: np.ndarray, log_ratio: np.ndarray, beta: float) -> np.ndarray:
    """What `reinforce_loss` takes: rewards less a price for leaving the start, less what the others got.

    Args:
        rewards: (B, K) float, K answers to a prompt.
        log_ratio: (B, K) float, nats: log-probability now minus at the start. Its mean over answers that the
            model draws estimates the Kullback-Leibler divergence from the start, without bias.
        beta: Price of a nat, >= 0.
    Returns:
        (B, K) float; each row sums to 0.
    Raises:
        ValueError: Shapes differ, K is below 2, a number is not finite, or beta is negative.
    Source: the price: Ziegler et al. 2019, equation 2; the mean of the other answers as baseline, which
    leaves the gradient without bias: Kool et al. 2019. Differs: no learned value, no clipping
    (Ouyang et al. 2022, section 3.5, use PPO).
    """
    check_at_least(0, beta=beta)
    rewards, log_ratio = np.asarray(rewards, float), np.asarray(log_ratio, float)
    if rewards.ndim != 2 or rewards.shape != log_ratio.shape or rewards.shape[1] < 2:
        shapes = f"{rewards.shape} and {log_ratio.shape}"
        raise ValueError(f"rewards and log_ratio must be (B, K), K at least 2; received {shapes}.")
    net = rewards - beta * log_ratio
    if not np.isfinite(net).all():
        raise ValueError(f"rewards and log_ratio must be finite; received {rewards} and {log_ratio}.")
    count = net.shape[1]
    return (net - net.mean(axis=1, keepdims=True)) * count / (count - 1)


def answer_batch(
    prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]], length: int, padding_id: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and their answers as `scorer` reads them.

    Args:
        prompts: B lists of ids, at least one each.
        answers: B lists of K lists of ids, their ends included.
        length: T; what is longer loses its last tokens.
        padding_id: Fills short rows.
    Returns:
        tokens: (B, K, T) int32, each row a prompt, its answer, padding.
        scored: (B, K, T) bool, True = of the answer.
    Raises:
        ValueError: The numbers differ, a prompt is empty, or leaves no room for an answer.
    """
    counts = sorted({len(some) for some in answers})
    if len(prompts) != len(answers) or len(counts) != 1:
        given = f"{len(prompts)} prompts, {len(answers)} rows of {counts} answers"
        raise ValueError(f"answers must be K for each prompt; received {given}.")
    sizes = [len(prompt) for prompt in prompts]
    if not 0 < min(sizes) <= max(sizes) < length:
        found = f"{min(sizes)} to {max(sizes)}"
        raise ValueError(f"prompts must have 1 to length - 1 = {length - 1} tokens; received {found}.")
    tokens = np.full((len(prompts), counts[0], length), padding_id, np.int32)
    scored = np.zeros(tokens.shape, bool)
    for i, (prompt, some) in enumerate(zip(prompts, answers, strict=True)):
        for k, answer in enumerate(some):
            row = [*prompt, *answer][:length]
            tokens[i, k, : len(row)] = row
            scored[i, k, len(prompt) : len(row)] = True
    return tokens, scored


def sample_answers(
    model: keras.Model, prompts: Sequence[Ids], answers: int, max_length: int, seed: int, end_id: int = 3
) -> list[list[list[int]]]:
    """Draws answers just as likely as the model finds them: no token is barred.

    Args:
        model: As for `scorer`.
        prompts: B lists of ids, at least one each.
        answers: K, for each prompt, >= 1.
        max_length: Most tokens of an answer, >= 1.
        seed: Makes the draw repeatable.
        end_id: The id that ends an answer.
    Returns:
        B lists of K lists of ids, ends included; one that was not ended has max_length.
    Raises:
        ValueError: A size is below 1, or as `generate`.
    """
    check_at_least(1, answers=answers)
    repeated = [list(prompt) for prompt in prompts for _ in range(answers)]
    settings = {"strategy": "sample", "end_id": end_id, "padding_id": end_id, "suppress_ids": ()}
    written = generate(model, repeated, max_length, seed=seed, **settings).tolist()
    ended = [row[: row.index(end_id) + 1] if end_id in row else row for row in written]
    return [ended[i : i + answers] for i in range(0, len(ended), answers)]


def reinforce(
    model: keras.Model,
    prompts: Sequence[Ids],
    reward: Callable[[list[int], list[int]], float],
    steps: int,
    answers: int = 8,
    beta: float = 0.1,
    optimizer: keras.optimizers.Optimizer | None = None,
    max_length: int = 32,
    end_id: int = 3,
    seed: int = 0,
) -> list[Step]:
    """Trains a language model by trial: it writes answers, each gets a reward, the better become likelier.

    Args:
        model: As for `scorer`; trained in place. The start that it is held to is what it is now.
        prompts: B lists of ids, at least one each; all of them at every step.
        reward: Judges an answer, reward(prompt, answer): ids without the end, to a finite number.
        steps: Updates, >= 1.
        answers: K for each prompt, >= 2.
        beta: Price of each nat that an answer is likelier than at the start, >= 0.
        optimizer: Adam with a learning rate of 0.001 if not given.
        max_length: Most tokens of an answer, >= 1.
        end_id: The id that ends an answer.
        seed: Makes the draws repeatable.
    Returns:
        A `Step` for each update, measured before it.
    Raises:
        ValueError: A number out of its range, or as `answer_batch` and `generate`.
    Source: Williams 1992; Ziegler et al. 2019, equation 2, as in `advantages`.
    """
    check_at_least(1, steps=steps, max_length=max_length)
    check_at_least(2, answers=answers)
    start = keras.models.clone_model(model)
    start.set_weights(model.get_weights())
    length = max(len(prompt) for prompt in prompts) + max_length
    policy, fixed = (scorer(one, answers, length) for one in (model, start))
    policy.compile(optimizer or keras.optimizers.Adam(1e-3), reinforce_loss, jit_compile=False)
    fixed.compile(jit_compile=False)
    history = []
    for step in range(steps):
        drawn = sample_answers(model, prompts, answers, max_length, seed * steps + step, end_id)
        rewards = _rewards(reward, prompts, drawn, end_id)
        inputs = answer_batch(prompts, drawn, length)
        ratio = policy.predict_on_batch(inputs) - fixed.predict_on_batch(inputs)
        different = {(i, *answer) for i, some in enumerate(drawn) for answer in some}
        history.append(Step(float(rewards.mean()), float(ratio.mean()), len(different) / rewards.size))
        policy.train_on_batch(inputs, advantages(rewards, ratio, beta))
    return history


def _rewards(reward, prompts, drawn, end_id):
    """(B, K) float."""
    rows = zip(prompts, drawn, strict=True)
    judged = [[reward(list(p), [i for i in a if i != end_id]) for a in some] for p, some in rows]
    return np.array(judged, float)

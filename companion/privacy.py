"""Training out of which no single example can be read, and measures of it (article section 8.2, step 4)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import gammaln, logsumexp, xlog1py, xlogy

from companion.base import check_at_least
from companion.retrieval import ranks_of

ORDERS = tuple(range(2, 65)) + tuple(range(68, 513, 4))


def cross_entropy(targets: Any, logits: Any) -> Any:
    """The usual loss of a classifier: (B, ...) int and (B, ..., C) float to (B, ...) nats."""
    return keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)


def per_example_gradients(
    model: keras.Model, inputs: Any, targets: Any, loss: Callable = cross_entropy
) -> list:
    """The gradient of each example's own loss.

    Args:
        model: Functional; called with training=False, so nothing is dropped at random.
        inputs: (B, ...).
        targets: (B, ...).
        loss: From targets and outputs to losses (B, ...); of an example the mean counts.
    Returns:
        For each trainable variable a tensor (B, *shape).
    Raises:
        RuntimeError: The backend is not TensorFlow.
    """
    _check_backend()
    import tensorflow as tf

    variables = [variable.value for variable in model.trainable_variables]

    def of_one(example):
        one, target = (part[None] for part in example)
        with tf.GradientTape() as tape:
            value = ops.mean(loss(target, model(one, training=False)))
        found = tape.gradient(value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]  # an embedding's is sparse

    return tf.vectorized_map(of_one, (tf.convert_to_tensor(inputs), tf.convert_to_tensor(targets)))


def clip_per_example(gradients: Sequence, clip_norm: float) -> list:
    """Shorten each example's gradient, all variables taken together, to length clip_norm at most.

    Args:
        gradients: For each variable (B, *shape).
        clip_norm: C, > 0; infinity changes nothing.
    Returns:
        As gradients; those of length C or less are unchanged.
    Source: Abadi et al. 2016, algorithm 1.
    """
    squares = [ops.sum(ops.square(ops.reshape(one, (ops.shape(one)[0], -1))), axis=1) for one in gradients]
    shrink = ops.maximum(1.0, ops.sqrt(sum(squares)) / clip_norm)
    return [one / ops.reshape(shrink, (-1,) + (1,) * (len(one.shape) - 1)) for one in gradients]


class PrivateTrainer:
    """Differentially private stochastic gradient descent.

    In each step every example takes part with probability q, by itself. The gradients of those that do are
    clipped to C and summed, Gaussian noise of standard deviation sigma C is added to every number, and the
    sum is divided by the expected batch size.

    Args:
        model: Functional, trained in place; its outputs are what the loss takes.
        loss: As for `per_example_gradients`.
        chunk_size: Examples whose gradients lie in memory at once, >= 1.
    Raises:
        RuntimeError: The backend is not TensorFlow.
        ValueError: chunk_size below 1.
    Source: Abadi et al. 2016, algorithm 1. Differs: the noise comes from an ordinary generator with a seed,
    good for a lesson, not for secrets.
    """

    def __init__(self, model: keras.Model, loss: Callable = cross_entropy, chunk_size: int = 64):
        _check_backend()
        import tensorflow as tf

        check_at_least(1, chunk_size=chunk_size)
        self.model, self.loss, self.chunk_size = model, loss, chunk_size
        self._chunk_sum = tf.function(self._sum_of_clipped, autograph=False, jit_compile=False)

    def gradient(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        clip_norm: float,
        noise_multiplier: float,
        batch_size: float,
        random: np.random.Generator,
    ) -> list[np.ndarray]:
        """The noisy gradient of one batch: (sum of the clipped gradients + sigma C noise) / batch_size.

        Args:
            inputs, targets: (B, ...); B may be 0, then there is only noise.
            clip_norm: C, > 0; may be infinity where there is no noise.
            noise_multiplier: sigma, >= 0.
            batch_size: What to divide by, > 0: the expected B, for the real one would tell something.
            random: Draws the noise.
        Returns:
            For each trainable variable an array of its shape, float32.
        Raises:
            ValueError: A number out of its range.
        """
        _check_noise(clip_norm, noise_multiplier)
        sums = [np.zeros(variable.shape, "float32") for variable in self.model.trainable_variables]
        for start in range(0, len(inputs), self.chunk_size):
            parts = [part[start : start + self.chunk_size] for part in (inputs, targets)]
            real = np.arange(self.chunk_size) < len(parts[0])  # chunks of one size compile once
            rows = np.where(real, np.arange(self.chunk_size), 0)
            found = self._chunk_sum(*(part[rows] for part in parts), real, np.array(clip_norm, "float32"))
            sums = [total + np.asarray(one) for total, one in zip(sums, found, strict=True)]
        if noise_multiplier:
            stddev = noise_multiplier * clip_norm
            sums = [total + random.normal(0, stddev, total.shape).astype("float32") for total in sums]
        return [total / np.float32(batch_size) for total in sums]

    def fit(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        steps: int,
        batch_size: float,
        learning_rate: float,
        clip_norm: float = 1.0,
        noise_multiplier: float = 1.0,
        seed: int = 0,
    ) -> np.ndarray:
        """Train in place, from the weights the model has.

        Args:
            inputs, targets: (N, ...), N examples; what is protected is an example.
            steps: >= 1.
            batch_size: Expected examples of a step, in (0, N]; q = batch_size / N.
            learning_rate: > 0.
            clip_norm, noise_multiplier: C and sigma, as in `gradient`.
            seed: Of the batches and of the noise.
        Returns:
            (steps,) int, how many examples took part.
        Raises:
            ValueError: A number out of its range, or inputs and targets of different lengths.
        """
        check_at_least(1, steps=steps)
        if len(inputs) != len(targets) or not 0 < batch_size <= len(inputs):
            sizes = f"{len(inputs)} inputs, {len(targets)} targets, batch_size={batch_size}"
            raise ValueError(f"inputs and targets must be N, 0 < batch_size <= N; received {sizes}.")
        random, sizes = np.random.default_rng(seed), []
        for _ in range(steps):
            (rows,) = np.nonzero(random.random(len(inputs)) < batch_size / len(inputs))
            batch = inputs[rows], targets[rows]
            gradients = self.gradient(*batch, clip_norm, noise_multiplier, batch_size, random)
            for variable, gradient in zip(self.model.trainable_variables, gradients, strict=True):
                variable.assign_sub(learning_rate * gradient)
            sizes.append(len(rows))
        return np.array(sizes)

    def _sum_of_clipped(self, inputs, targets, real, clip_norm):
        gradients = per_example_gradients(self.model, inputs, targets, self.loss)
        real = ops.cast(real, "float32")
        return [ops.tensordot(real, one, 1) for one in clip_per_example(gradients, clip_norm)]


def renyi_divergence(rate: float, noise_multiplier: float, orders: Sequence[int] = ORDERS) -> np.ndarray:
    """How far one step may tell two sets of data apart that differ in an example.

    Args:
        rate: q, the probability that an example takes part, in [0, 1].
        noise_multiplier: sigma, > 0.
        orders: Rényi's alpha, ints >= 2.
    Returns:
        (len(orders),) float64, nats.
    Raises:
        ValueError: A number out of its range.
    Source: Mironov, Talwar and Zhang 2019, section 3.3.
    """
    if not 0 <= rate <= 1 or not noise_multiplier > 0:
        given = f"rate={rate}, noise_multiplier={noise_multiplier}"
        raise ValueError(f"rate must lie in [0, 1] and noise_multiplier above 0; received {given}.")
    check_at_least(2, **{"min(orders)": min(orders)})
    found = []
    for order in orders:
        k = np.arange(order + 1)
        binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        terms = (
            binomial + xlogy(k, rate) + xlog1py(order - k, -rate) + k * (k - 1) / (2 * noise_multiplier**2)
        )
        found.append(logsumexp(terms) / (order - 1))
    return np.maximum(found, 0)


def privacy_budget(rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """The epsilon of (epsilon, delta)-differential privacy after all steps of a `PrivateTrainer`.

    Args:
        rate: q = batch_size / N, in [0, 1].
        noise_multiplier: sigma, >= 0.
        steps: >= 0.
        delta: Probability that the promise fails, in (0, 1); well below 1 / N.
    Returns:
        float >= 0, an upper bound; infinity without noise.
    Raises:
        ValueError: A number out of its range.
    Source: Mironov 2017, propositions 1 and 3; the moments accountant of Abadi et al. 2016, section 3.2.
    Differs: whole orders from 2 to 512 only; newer conversions promise slightly less than this.
    """
    check_at_least(0, noise_multiplier=noise_multiplier, steps=steps)
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1); received delta={delta}.")
    if not steps or not rate:
        return 0.0
    if not noise_multiplier:
        return math.inf
    losses = steps * renyi_divergence(rate, noise_multiplier) - math.log(delta) / (np.array(ORDERS) - 1)
    return float(losses.min())


def exposure(losses: np.ndarray, secrets: Sequence[int]) -> np.ndarray:
    """How much a model tells of a planted secret: by how many bits fewer than all candidates need be tried.

    Args:
        losses: (K, N) float, for each of K secrets the model's loss on each of N candidates.
        secrets: (K,) int in [0, N), the candidate that was planted.
    Returns:
        (K,) float64 bits, log2 N - log2 rank: log2 N if the model likes the secret best, 0 if least. Of equal
        losses the secret takes the last place. For one that the model never saw, about 1.44 on average.
    Raises:
        ValueError: Shapes do not fit, a secret is no candidate, or a loss is NaN.
    Source: Carlini et al. 2019, section 4.2, definition 2.
    """
    ranks = ranks_of(-np.asarray(losses), secrets)
    return np.log2(np.shape(losses)[1]) - np.log2(ranks)


def _check_backend():
    if (backend := keras.backend.backend()) != "tensorflow":
        raise RuntimeError(f"the backend must be tensorflow, for per-example gradients; received {backend}.")


def _check_noise(clip_norm, noise_multiplier):
    if not clip_norm > 0:
        raise ValueError(f"clip_norm must be above 0; received clip_norm={clip_norm}.")
    check_at_least(0, noise_multiplier=noise_multiplier)
    if noise_multiplier and math.isinf(clip_norm):
        raise ValueError("clip_norm must be finite where noise_multiplier is above 0; received inf.")

"""Training where the data are: federated averaging (article section 8.2, step 4)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from companion.base import check_at_least


class Update(NamedTuple):
    """All that leaves a client: its weights after local training, and from how many examples."""

    weights: list[np.ndarray]
    count: int


class ServerState(NamedTuple):
    """All that the server keeps: the weights of the common model, and how many rounds made them."""

    weights: list[np.ndarray]
    round: int = 0


Client = Callable[[Sequence[np.ndarray], int], Update]  # weights and a seed to an update


def local_client(
    model: keras.Model,
    inputs: np.ndarray,
    targets: np.ndarray,
    epochs: int = 1,
    batch_size: int | None = None,
) -> Client:
    """A client: data that stay where they are, and a function that trains on them.

    Args:
        model: Compiled. Clients that are simulated on one machine may share it: each call sets the weights,
            and the optimizer begins as it stands now.
        inputs: (N, ...), also without a row.
        targets: (N, ...).
        epochs: Times through the data in a call, >= 1.
        batch_size: Rows of a step, in a new order each epoch, >= 1; None: all of them, a step per epoch.
    Returns:
        Function of weights and an int seed, that gives the Update. The seed decides on the order and on
        dropout (but on Keras's own on PyTorch, which goes by PyTorch's seed). Without data it hands the
        weights back with count 0.
    Raises:
        ValueError: A number out of its range, inputs and targets of different lengths, or no compiled model.
    """
    check_at_least(1, epochs=epochs, batch_size=1 if batch_size is None else batch_size)
    if len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets must have the same length; received {len(inputs)} and {len(targets)}."
        )
    if not model.compiled:
        raise ValueError("model must be compiled; received one that is not.")
    model.optimizer.build(model.trainable_variables)
    fresh = [ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    generators = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    size = max(len(inputs), 1) if batch_size is None else batch_size

    def client(weights, seed):
        model.set_weights(weights)
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        random = np.random.default_rng(seed)
        for number, state in enumerate(generators, start=1):
            state.assign(np.random.default_rng([seed, number]).integers(2**31, size=2))
        for _ in range(epochs):
            order = random.permutation(len(inputs))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                model.train_on_batch(inputs[rows], targets[rows])
        return Update(model.get_weights(), len(inputs))

    return client


def average(updates: Sequence[Update]) -> list[np.ndarray]:
    """The mean of the clients' weights, each client counting as much as it has examples.

    Args:
        updates: From one client or more.
    Returns:
        Arrays in the shapes and dtypes of the weights.
    Raises:
        ValueError: No examples in all, a negative count, or weights whose shapes differ.
    Source: McMahan et al. 2017, algorithm 1. Differs: the mean is over the clients that were drawn.
    """
    counts = [update.count for update in updates]
    if sum(counts) <= 0 or min(counts) < 0:
        raise ValueError(f"updates must have counts >= 0, not all of them 0; received counts {counts}.")
    shapes = [[np.shape(weight) for weight in update.weights] for update in updates]
    for number, some in enumerate(shapes):
        if some != shapes[0]:
            raise ValueError(f"updates must agree in shapes {shapes[0]}; received {some} from {number}.")
    stacks = zip(*(update.weights for update in updates), strict=True)
    return [np.average(stack, axis=0, weights=counts).astype(stack[0].dtype) for stack in stacks]


def federated_round(
    state: ServerState, clients: Sequence[Client], fraction: float = 1.0, seed: int = 0
) -> ServerState:
    """Send the weights to some clients, and average what comes back.

    Args:
        state: Where the server stands.
        clients: As of `local_client`; they alone see data.
        fraction: Share of the clients that is drawn, in (0, 1], rounded, but one at least.
        seed: Of the draw and of the clients' own seeds; each round draws anew.
    Returns:
        The next state. Where no client drawn had data, the weights stay.
    Raises:
        ValueError: No client, or a fraction outside (0, 1].
        TypeError: A client returns something other than an Update.
    Source: McMahan et al. 2017, algorithm 1 (FedAvg; with one full-batch step FedSGD).
    """
    check_at_least(1, **{"len(clients)": len(clients)})
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1]; received fraction={fraction}.")
    random = np.random.default_rng([seed, state.round])
    seeds = random.integers(2**31, size=len(clients))
    drawn = random.permutation(len(clients))[: max(1, round(fraction * len(clients)))]
    updates = [clients[number](state.weights, int(seeds[number])) for number in sorted(drawn)]
    for update in updates:
        if not isinstance(update, Update):
            raise TypeError(f"clients must return an Update; received {type(update).__name__}.")
    weights = average(updates) if any(update.count for update in updates) else state.weights
    return ServerState(weights, state.round + 1)

"""Federated averaging: equal to central training where it must be, and nothing but weights travels."""

import keras
import numpy as np
import pytest

from companion.base import Dropout
from companion.federated import ServerState, Update, average, federated_round, local_client

pytestmark = pytest.mark.backend
SIZES = (3, 1, 8, 4)


def linear(optimizer=None, compiled=True):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    if compiled:
        model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


@pytest.fixture
def data(rng):
    return rng.normal(size=(sum(SIZES), 3)).astype("float32"), rng.normal(size=(sum(SIZES), 2)).astype("f4")


def parts(data, sizes=SIZES):
    ends = np.cumsum(sizes)[:-1]
    return list(zip(*(np.split(column, ends) for column in data), strict=True))


def assert_equal(one, other, atol=1e-6):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def test_one_full_batch_step_of_clients_of_any_size_is_one_central_step(data):
    model = linear()
    start = model.get_weights()
    clients = [local_client(model, *part) for part in parts(data)]
    together = federated_round(ServerState(start), clients)
    x, y = data
    error = 2 * (x @ start[0] + start[1] - y) / y.size  # the gradient by hand
    assert_equal(together.weights, [start[0] - 0.1 * x.T @ error, start[1] - 0.1 * error.sum(axis=0)])
    alone = local_client(model, x, y)(start, 0)
    assert_equal(together.weights, alone.weights)
    assert together.round == 1 and alone.count == len(x)


def test_a_seed_decides_on_dropout_too(data):
    model = keras.Sequential([keras.Input((3,)), Dropout(0.5), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    client, start = local_client(model, *data, epochs=3), model.get_weights()
    first, other, again = (client(start, seed).weights for seed in (7, 8, 7))
    assert_equal(first, again)
    assert np.abs(first[0] - other[0]).max() > 1e-4


def test_several_local_steps_are_not_central_training(data):
    model = linear()
    start = model.get_weights()
    clients = [local_client(model, *part, epochs=5) for part in parts(data)]
    central = local_client(model, *data, epochs=5)(start, 0)
    assert np.abs(federated_round(ServerState(start), clients).weights[0] - central.weights[0]).max() > 1e-3


def test_the_mean_is_weighted_by_hand():
    updates = [Update([np.array([1.0, 0.0], "float32")], 1), Update([np.array([5.0, 4.0], "float32")], 3)]
    (mean,) = average(updates)
    np.testing.assert_array_equal(mean, [4.0, 3.0])
    assert mean.dtype == np.float32


def test_a_client_without_data_changes_nothing(data):
    model = linear()
    start = model.get_weights()
    empty = local_client(model, data[0][:0], data[1][:0])
    update = empty(start, 0)
    assert update.count == 0
    assert_equal(update.weights, start, atol=0)
    full = local_client(model, *data)
    one, both = (federated_round(ServerState(start), some) for some in ([full], [empty, full]))
    assert_equal(one.weights, both.weights, atol=1e-7)
    assert_equal(federated_round(ServerState(start), [empty, empty]).weights, start, atol=0)


def test_only_weights_and_a_count_leave_a_client(data):
    model = linear()
    start = model.get_weights()
    client = local_client(model, *data, batch_size=2)
    before = [column.copy() for column in data]
    update = client(start, 0)
    assert type(update) is Update and Update._fields == ("weights", "count")
    assert [weight.shape for weight in update.weights] == [weight.shape for weight in start]
    assert type(update.count) is int and ServerState._fields == ("weights", "round")
    for weight in update.weights:
        assert not any(np.shares_memory(weight, column) for column in data)
    for column, copy in zip(data, before, strict=True):
        np.testing.assert_array_equal(column, copy)


def test_a_share_of_the_clients_is_drawn_anew_each_round_and_again_from_the_seed():
    def run(seed):
        called = []

        def client(number, weights, given):
            called.append((number, given))
            return Update(weights, 1)

        clients = [lambda w, s, n=n: client(n, w, s) for n in range(10)]
        state = ServerState([np.zeros(1)])
        for _ in range(20):
            state = federated_round(state, clients, 0.3, seed)
        return np.reshape([number for number, _ in called], (20, 3)), [given for _, given in called]

    (drawn, seeds), (again, same), (other, _) = run(0), run(0), run(1)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    assert len(np.unique(drawn, axis=0)) > 10 and set(drawn.ravel()) == set(range(10))
    np.testing.assert_array_equal(drawn, again)
    assert seeds == same and len(set(seeds)) == 60 and (drawn != other).any()


@pytest.mark.parametrize(("fraction", "number"), [(1e-9, 1), (0.5, 2), (1.0, 4)])
def test_one_client_at_least_is_drawn(fraction, number):
    called = []
    clients = [lambda weights, seed: called.append(seed) or Update(weights, 1)] * 4
    federated_round(ServerState([np.zeros(1)]), clients, fraction)
    assert len(called) == number


def test_what_one_client_did_does_not_reach_the_optimizer_of_the_next(data):
    model = linear(keras.optimizers.SGD(0.1, momentum=0.9))
    start = model.get_weights()
    client = local_client(model, *data, epochs=3, batch_size=4)
    first, second = client(start, 5), client(start, 5)
    assert_equal(first.weights, second.weights, atol=0)
    other = client(start, 6)
    assert np.abs(first.weights[0] - other.weights[0]).max() > 1e-6


def test_rounds_lower_the_loss(data):
    model = linear()
    state = ServerState(model.get_weights())
    clients = [local_client(model, *part, batch_size=2) for part in parts(data)]
    losses = []
    for _ in range(6):
        model.set_weights(state.weights)
        losses.append(float(np.mean((np.asarray(model.predict(data[0], verbose=0)) - data[1]) ** 2)))
        state = federated_round(state, clients)
    assert losses[-1] < 0.9 * losses[0] and state.round == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; received epochs=0"),
        ({"batch_size": 0}, "batch_size must be at least 1; received batch_size=0"),
        ({"targets": np.zeros((4, 2))}, "must have the same length; received 5 and 4"),
        ({"model": linear(compiled=False)}, "model must be compiled"),
    ],
)
def test_bad_clients(change, message):
    given = {"model": linear(), "inputs": np.zeros((5, 3)), "targets": np.zeros((5, 2))} | change
    with pytest.raises(ValueError, match=message):
        local_client(**given)


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ([], r"counts >= 0, not all of them 0; received counts \[\]"),
        ([Update([np.zeros(1)], 0)], r"received counts \[0\]"),
        ([Update([np.zeros(1)], 3), Update([np.zeros(1)], -1)], r"received counts \[3, -1\]"),
        ([Update([np.zeros(1)], 1), Update([np.zeros(2)], 1)], r"agree in shapes \[\(1,\)\]; received"),
    ],
)
def test_bad_updates(updates, message):
    with pytest.raises(ValueError, match=message):
        average(updates)


def test_bad_rounds():
    state = ServerState([np.zeros(1)])
    with pytest.raises(ValueError, match="must be at least 1"):
        federated_round(state, [])
    for fraction in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"fraction must lie in \(0, 1\]; received fraction={fraction}"):
            federated_round(state, [lambda weights, seed: Update(weights, 1)], fraction)
    with pytest.raises(TypeError, match="clients must return an Update; received list"):
        federated_round(state, [lambda weights, seed: weights])

"""The loss of negative sampling, its gradients, one step of training: against loops over single pairs."""

import numpy as np
import pytest
import tensorflow as tf

from companion import negative_sampling
from companion.adagrad import START, START_OF_PARTS, ComposedAdaGrad, SparseAdaGrad
from companion.negative_sampling import (
    MODES,
    chunk_gradients,
    chunk_loss,
    negative_sampling_loss,
    train_vectors,
)
from companion.word_corpus import encode_corpus, noise_distribution, pieces

each_mode = pytest.mark.parametrize("mode", MODES)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_loss(positive, negative, weight=1.0):
    """Equation 4 of Mikolov et al. 2013b, negated."""
    return -np.log(sigmoid(positive)) - weight * np.log(sigmoid(-np.asarray(negative))).sum()


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=tolerance, rtol=tolerance)


@pytest.fixture
def blocks(rng):
    """center (3, 4, 5), context (3, 6, 5), noise (7, 5), mask (3, 4, 6) with empty windows."""
    shapes = (3, 4, 5), (3, 6, 5), (7, 5)
    mask = (rng.random((3, 4, 6)) < 0.4).astype("float32")
    mask[0, 1] = mask[2] = 0
    return *(rng.standard_normal(shape, dtype="float32") for shape in shapes), mask


# The loss


def test_the_loss_is_the_equation_of_the_paper(rng):
    word, neighbor, noise = (rng.standard_normal(shape) for shape in (5, 5, (7, 5)))
    loss = negative_sampling_loss(neighbor @ word, noise @ word)
    close(loss, -np.log(sigmoid(neighbor @ word)) - np.log(sigmoid(-noise @ word)).sum())
    weighted = negative_sampling_loss(neighbor @ word, noise @ word, 0.25)
    close(weighted, log_loss(neighbor @ word, noise @ word, 0.25))


def test_the_loss_by_hand():
    close(negative_sampling_loss(tf.zeros(2), tf.zeros((2, 3))), [4 * np.log(2)] * 2)
    close(negative_sampling_loss(np.log(3.0), [np.log(1 / 3)]), 2 * np.log(4 / 3))  # s(log 3) = 3/4
    close(negative_sampling_loss(-100.0, [100.0, -100.0]), 200)
    assert negative_sampling_loss(tf.zeros((2, 5)), tf.zeros((2, 5, 3))).shape == (2, 5)


@each_mode
def test_a_single_pair_has_that_loss(rng, mode):
    word, neighbor, noise = (rng.standard_normal(shape, dtype="float32") for shape in (5, 5, (7, 5)))
    loss = chunk_loss(mode, word[None, None], neighbor[None, None], noise, np.ones((1, 1, 1), "float32"), 7)
    meets_noise = word if mode == "skip-gram" else neighbor
    close(loss, negative_sampling_loss(neighbor @ word, noise @ meets_noise))


def test_skip_gram_sums_over_pairs(blocks):
    center, context, noise, mask = blocks
    pairs = [
        log_loss(center[n, i] @ context[n, j], noise @ center[n, i], 3 / 7) for n, i, j in np.argwhere(mask)
    ]
    assert len(pairs) > 10
    close(chunk_loss("skip-gram", *blocks, 3), sum(pairs))


def test_cbow_sums_over_centers_and_predicts_from_the_mean_of_the_neighbors(blocks):
    center, context, noise, mask = blocks
    total = 0
    for n, i in np.argwhere(mask.any(axis=-1)):
        mean = context[n, mask[n, i] == 1].mean(axis=0)
        total += log_loss(mean @ center[n, i], noise @ mean, 3 / 7)
    close(chunk_loss("cbow", *blocks, 3), total)


# Gradients


@each_mode
@pytest.mark.parametrize("size", [0.1, 1, 3])
def test_gradients_are_those_of_the_loss(blocks, mode, size):
    *vectors, mask = blocks
    vectors = [tf.constant(size * part) for part in vectors]
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = chunk_loss(mode, *vectors, mask, 3)
    expected = tape.gradient(loss, vectors)
    for part, wanted in zip(chunk_gradients(mode, *vectors, mask, 3), expected, strict=True):
        assert part.shape == wanted.shape and np.abs(wanted).max() > 1e-2
        close(part, wanted)


@each_mode
def test_a_center_without_neighbors_changes_nothing(blocks, mode):
    d_center, d_context, d_noise = chunk_gradients(mode, *blocks, 3)
    assert not d_center[0, 1].numpy().any() and not d_center[2].numpy().any()
    assert not d_context[2].numpy().any() and not d_context.numpy()[~blocks[3].any(axis=1)].any()
    *vectors, mask = blocks
    nothing = [chunk_loss(mode, *vectors, 0 * mask, 3), *chunk_gradients(mode, *vectors, 0 * mask, 3)]
    assert not any(part.numpy().any() for part in nothing)  # NaN would count as something


@each_mode
@pytest.mark.parametrize("score", [100, -100, 1e4, -1e4])
def test_saturated_scores_stay_finite(mode, score):
    one = np.ones((1, 1, 1), "float32")
    arguments = one, score * one, one[0], one
    meets_noise = 1 if mode == "skip-gram" else score  # what predicts, times a noise word of 1
    expected = max(-score, 0) + np.logaddexp(0, meets_noise)
    close(chunk_loss(mode, *arguments, 1), expected)
    slopes = chunk_gradients(mode, *arguments, 1)
    assert np.isfinite(np.concatenate([np.ravel(slope) for slope in slopes])).all()
    close(slopes[0], [[[(-score if score < 0 else 0) + (sigmoid(1) if mode == "skip-gram" else 0)]]])


# AdaGrad


@pytest.mark.parametrize("by_row", [True, False])
def test_a_sparse_step_is_the_dense_one(rng, by_row):
    start = rng.standard_normal((7, 3), dtype="float32")
    values, table = start.astype("float64"), SparseAdaGrad(start, by_row, 0.5)
    squares = np.full((7, 1 if by_row else 3), 0.5)
    for rows in ([4, 2, 4, 4, 0], [2], [6, 2, 6, 5]):
        gradients, sums = rng.standard_normal((len(rows), 3), dtype="float32"), np.zeros((7, 3))
        for row, gradient in zip(rows, gradients, strict=True):
            sums[row] += gradient
            squares[row] += (gradient**2).mean() if by_row else gradient**2
        values -= 0.2 * sums / np.sqrt(squares)
        table.descend(tf.constant(rows), tf.constant(gradients), tf.constant(0.2))
        close(table.values, values)
        close(table.squares, squares[:, 0] if by_row else squares)
    untouched = table.values.numpy()[[1, 3]], start[[1, 3]]
    assert untouched[0].tobytes() == untouched[1].tobytes()
    close(table.read(tf.constant([3, 0, 3])), values[[3, 0, 3]])


def test_the_first_step_of_a_row_by_hand():
    table = SparseAdaGrad(np.zeros((2, 2), "float32"), True, 4.0)
    table.descend(tf.constant([1]), tf.constant([[1.0, 3.0]]), tf.constant(0.6))
    close(table.values, [[0, 0], [-0.2, -0.6]])  # the mean of 1 and 9 is 5, and the root of 4 + 5 is 3


PARTS = [[0, 8], [1, 9, 8], [2], [3, 9], [4, 8, 10, 10], [5]]  # rows of words that are means of several
TIMES = np.array(
    [np.bincount(rows, minlength=11) for rows in PARTS]
)  # (6, 11), how often each is part of each


def composed(values):
    return ComposedAdaGrad(values, np.concatenate(PARTS), np.cumsum([0, *map(len, PARTS)]))


def test_a_composed_word_is_a_mean(rng):
    values = rng.standard_normal((11, 3), dtype="float32")
    words = [4, 0, 4, 2, 1, 4]
    close(composed(values).read(tf.constant(words)), [values[PARTS[word]].mean(axis=0) for word in words])


def test_every_part_of_a_word_takes_its_share(rng):
    start = rng.standard_normal((11, 3), dtype="float32")
    values, table, squares = start.astype("float64"), composed(start), np.full(11, START_OF_PARTS)
    for words in ([4, 0, 4, 2], [1], [4, 3, 1, 1]):
        gradients, sums = rng.standard_normal((len(words), 3), dtype="float32"), np.zeros((11, 3))
        for word, gradient in zip(words, gradients, strict=True):
            for row in PARTS[word]:  # one that is there twice has two shares
                sums[row] += gradient / len(PARTS[word])
                squares[row] += (gradient**2).mean() / len(PARTS[word]) ** 2
        values -= 0.2 * sums / np.sqrt(squares)[:, None]
        table.descend(tf.constant(words), tf.constant(gradients), tf.constant(0.2))
        close(table.values, values)
        close(table.squares, squares)
    assert table.values.numpy()[[5, 6, 7]].tobytes() == start[[5, 6, 7]].tobytes()


# One step of training, written a second time: loops over centers and neighbors, no blocks but for the squares

NEGATIVES, WINDOW, DIM, RATE = 3, 5, 4, 0.2  # a window wider than a block


@pytest.fixture
def small(monkeypatch):
    for name, size in {"CHUNK": 24, "BLOCK": 4, "NOISE": 6}.items():
        monkeypatch.setattr(negative_sampling, name, size)


@pytest.fixture
def chunks(small):
    """Two chunks of a corpus of six words: tokens, left, right, noise; padding fills up the second."""
    random = np.random.default_rng(2)
    sentences = [["abcdef"[i] for i in random.integers(0, 6, size)] for size in (9, 1, 5, 14, 8)]
    corpus = encode_corpus(sentences, 1)
    ids, before, after, _ = next(pieces(corpus, np.ones(6), random))
    made = negative_sampling._chunks(
        ids, before, after, WINDOW, np.cumsum(noise_distribution(corpus.counts)), random
    )
    assert made[0].shape == (2, 24 + 2 * WINDOW) and not made[1][1, 13:].any()
    return made


def neighbors(left, right):
    """[(center, [places of its neighbors])] of a chunk with margins."""
    spans = zip(range(WINDOW, WINDOW + len(left)), left.astype(int), right.astype(int), strict=True)
    return [(i, [j for j in range(i - a, i + b + 1) if j != i]) for i, a, b in spans if a or b]


def gradients_by_hand(mode, words, outputs, tokens, left, right, noise):
    """[(row, gradient)] of each use of an input vector and of an output vector, and the mean loss."""
    inner, outer, losses = {}, {}, []  # use: (row, gradient); a neighbor is used once for each block

    def add(uses, use, row, gradient):
        uses[use] = row, uses.get(use, (row, 0))[1] + gradient

    for i, near in neighbors(left, right):
        block, many = (i - WINDOW) // 4, mode == "skip-gram"
        predicting = [words[tokens[i]]] * len(near) if many else [words[tokens[near]].mean(axis=0)]
        for hidden, j in zip(predicting, near if many else [i], strict=True):
            slope, noisy = -sigmoid(-hidden @ outputs[tokens[j]]), sigmoid(outputs[noise] @ hidden)
            losses.append(log_loss(hidden @ outputs[tokens[j]], outputs[noise] @ hidden, NEGATIVES / 6))
            d_hidden = slope * outputs[tokens[j]] + NEGATIVES / 6 * noisy @ outputs[noise]
            add(outer, (block, j) if many else j, tokens[j], slope * hidden)
            for k, row in enumerate(noise):
                add(outer, f"noise {k}", row, NEGATIVES / 6 * noisy[k] * hidden)
            for place in [i] if many else near:
                use = i if many else (block, place)
                add(inner, use, tokens[place], d_hidden / (1 if many else len(near)))
    return list(inner.values()), list(outer.values()), np.mean(losses)


def steps(squares, uses, times):
    """AdaGrad by hand: the step of each row; its squares are added to in place."""
    sums, shares = np.zeros((len(squares), DIM)), times / times.sum(axis=1, keepdims=True)
    for word, gradient in uses:
        sums += shares[word][:, None] * gradient
        squares += shares[word] ** 2 / np.maximum(times[word], 1) * (gradient**2).mean()  # part by part
    return RATE * sums / np.sqrt(squares)[:, None]


def trained(mode, tables, chunks):
    """The mean loss of the first of the chunks, before the tables are trained on all of them."""
    run = tf.function(negative_sampling._Step(*tables, mode, WINDOW, NEGATIVES).run)
    return run(*map(tf.constant, chunks), tf.constant([RATE] * len(chunks[0])))


@each_mode
@pytest.mark.parametrize("several", [False, True])
def test_steps_are_those_of_loops(chunks, rng, mode, several):
    table, outputs = (rng.standard_normal((rows, DIM), dtype="float32") for rows in (11 if several else 6, 6))
    made = composed(table) if several else SparseAdaGrad(table), SparseAdaGrad(outputs)
    loss = trained(mode, made, chunks)
    table, outputs, times = (
        table.astype("float64"),
        outputs.astype("float64"),
        TIMES if several else np.eye(6),
    )
    squares, losses = (np.full(len(table), START_OF_PARTS if several else START), np.full(6, START)), []
    for chunk in zip(*chunks, strict=True):
        words = times @ table / times.sum(axis=1, keepdims=True)
        inner, outer, measured = gradients_by_hand(mode, words, outputs, *chunk)
        table = table - steps(squares[0], inner, times)
        outputs = outputs - steps(squares[1], outer, np.eye(6))
        losses.append(measured)
    close(loss, losses[0])
    for sparse, values, sums in zip(made, (table, outputs), squares, strict=True):
        close(sparse.values, values, 1e-4)
        close(sparse.squares, sums, 1e-4)


def dense_loss(mode, words, outputs, tokens, left, right, noise):
    """The loss of a chunk as a function of whole tables."""
    total = 0.0
    for i, near in neighbors(left, right):
        context = tf.gather(words if mode == "cbow" else outputs, tokens[near])
        if mode == "skip-gram":
            hidden, predicted = words[tokens[i]][None], context
        else:
            hidden, predicted = tf.reduce_mean(context, axis=0, keepdims=True), outputs[tokens[i]][None]
        noisy = tf.matmul(hidden, tf.gather(outputs, noise), transpose_b=True)
        positive = tf.reduce_sum(hidden * predicted, axis=-1)
        total += tf.reduce_sum(negative_sampling_loss(positive, noisy, NEGATIVES / 6))
    return total


@each_mode
@pytest.mark.parametrize("several", [False, True])
def test_a_step_goes_against_the_gradient_of_the_whole_tables(chunks, rng, mode, several):
    times = TIMES if several else np.eye(6)
    tables = [rng.standard_normal((rows, DIM), dtype="float32") for rows in (times.shape[1], 6)]
    made = (composed if several else SparseAdaGrad)(tables[0]), SparseAdaGrad(tables[1])
    first = [part[:1] for part in chunks]
    with tf.GradientTape() as tape:
        dense = [tf.Variable(values) for values in tables]
        words = tf.matmul(tf.constant(times / times.sum(axis=1, keepdims=True), tf.float32), dense[0])
        loss = dense_loss(mode, words, dense[1], *(part[0] for part in first))
    slopes = [tf.convert_to_tensor(slope) for slope in tape.gradient(loss, dense)]
    trained(mode, made, first)
    for sparse, values, slope in zip(made, tables, slopes, strict=True):
        assert np.abs(slope).max() > 0.1
        close((values - sparse.values) * np.sqrt(sparse.squares)[:, None] / RATE, slope, 1e-4)


@each_mode
def test_a_row_that_is_used_once_moves_by_its_gradient_alone(small, mode):
    """Of "a b" only a sees b, and all noise is c: so one input vector is used, in one place."""
    tokens = np.pad(np.array([0, 1], "int32"), (WINDOW, 24 - 2 + WINDOW))[None]
    left, right = np.zeros((1, 24), "float32"), np.zeros((1, 24), "float32")
    right[0, 0] = 1
    tables = [np.eye(3, 4, k, dtype="float32") + 0.5 for k in (0, 1)]
    made = [SparseAdaGrad(values) for values in tables]
    trained(mode, made, (tokens, left, right, np.full((1, 6), 2, "int32")))
    seen, predicted = (0, 1) if mode == "skip-gram" else (1, 0)
    word, other, drawn = tables[0][seen], tables[1][predicted], tables[1][2]
    slope = (sigmoid(word @ other) - 1) * other + NEGATIVES * sigmoid(word @ drawn) * drawn
    step = made[0].values.numpy() - tables[0]
    close(step[seen], -RATE * slope / np.sqrt(START + np.mean(slope**2)))
    assert not np.delete(step, seen, axis=0).any()


# What an epoch consists of


@pytest.fixture
def watched(monkeypatch):
    """Replace the training of chunks by writing down its arguments."""
    calls = []

    def run(self, *parts):
        calls.append([part.numpy() for part in parts])
        return 1.5

    for name, size in {"CHUNK": 1024, "NOISE": 128, "_Step.run": run}.items():
        monkeypatch.setattr(f"companion.negative_sampling.{name}", size)
    tf.config.run_functions_eagerly(True)
    yield calls
    tf.config.run_functions_eagerly(False)


def watch(corpus, window=3, subsample=0, epochs=2, seed=0):
    table = SparseAdaGrad(np.zeros((len(corpus.words), 2), "float32"))
    settings = dict(negatives=5, seed=seed, progress=False, name="", epochs=epochs, learning_rate=0.3)
    return train_vectors(corpus, table, "cbow", window, subsample=subsample, **settings)


def test_chunks_hold_the_corpus_its_windows_and_noise(watched, rng):
    share = np.array([0.5, 0.3, 0.15, 0.05])
    corpus = encode_corpus([rng.choice(list("abcd"), 30, p=share) for _ in range(2000)], 1)
    _, losses = watch(corpus, epochs=1)
    ((tokens, left, right, noise, _),) = watched
    assert losses == [1.5] and tokens.shape == (59, 1024 + 6) and noise.shape == (59, 128)
    np.testing.assert_array_equal(tokens[:, 3:-3].ravel()[:60_000], corpus.ids)
    np.testing.assert_array_equal(tokens[1:, :3], tokens[:-1, -6:-3])  # margins are the neighbors' ends
    place = np.arange(60_000) % 30
    left, right = left.ravel(), right.ravel()
    assert not left[60_000:].any() and not right[60_000:].any()
    left, right = left[:60_000], right[:60_000]
    assert (left <= place).all() and (right <= 29 - place).all()
    inside = (place >= 3) & (place <= 26)
    np.testing.assert_array_equal(left[inside], right[inside])
    drawn = np.bincount(left[inside].astype(int), minlength=4) / inside.sum()
    close(drawn, [0, 1 / 3, 1 / 3, 1 / 3], 0.01)
    close(np.bincount(noise.ravel()) / noise.size, noise_distribution(corpus.counts), 0.02)


def test_the_learning_rate_falls_evenly_to_almost_nothing(watched, monkeypatch):
    monkeypatch.setattr("companion.word_corpus.PIECE", 4096)
    watch(encode_corpus([["a", "b"]] * 5120, 1))
    rates = np.concatenate([call[-1] for call in watched])
    assert len(watched) == 2 * 3 and len(rates) == 20  # 10 chunks of 1,024 in each of 2 epochs
    close(rates, 0.3 * (1 - np.arange(20) / 20), 1e-6)


def test_frequent_words_are_thinned_out_before_windows_are_drawn(watched):
    corpus = encode_corpus([["a"] * 99 + ["b"]] * 100, 1)
    watch(corpus, subsample=0.02, epochs=1)  # of a 16 % stay, and of b, which is rarer than that, all
    ((tokens, left, right, _, _),) = watched
    assert len(tokens) == 2 and np.count_nonzero(tokens[:, 3:-3]) == 100
    is_b = tokens[:, 3:-3] == 1
    assert left[is_b].mean() > 1.5 and not right[is_b].any()  # what is left of its sentence is its window


def test_the_seed_decides_windows_and_noise(watched):
    for seed in (1, 1, 2):
        watch(encode_corpus([["a", "b", "c", "d"]] * 99, 1), epochs=1, seed=seed)
    for first, again, other in list(zip(*watched, strict=True))[1:4]:  # left, right, noise
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.1

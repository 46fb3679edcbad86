"""What to recommend: from what others took together, or from what the items say (article section 6.3).

A basket is a row of N booleans, one for each item. Whatever recommends has `scores(baskets)`, (B, N) bool to
(B, N) float, higher is better, so that one evaluation serves all.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers, ops
from scipy import sparse

from companion.attention import padding_mask
from companion.base import Dropout, check_at_least, check_shares, takes_plain_numbers
from companion.classifiers import mean_of_real
from companion.encoder import EncoderBlock
from companion.pretraining import WarmupCosine
from companion.retrieval import UnitLength, ranks_of


class Recommender(Protocol):
    """Whatever gives each item a score for each basket."""

    def scores(self, baskets: np.ndarray) -> np.ndarray:
        """(B, N) bool to (B, N) float, higher is better; items in the basket have scores too."""


def basket_matrix(baskets: Sequence[Iterable[str]], items: Sequence[str]) -> np.ndarray:
    """Baskets as rows of booleans.

    Args:
        baskets: B collections of names.
        items: The N names that there are, in the order of the columns.
    Returns:
        (B, N) bool.
    Raises:
        ValueError: A basket holds a name that is not among items.
    """
    column = {item: number for number, item in enumerate(items)}
    matrix = np.zeros((len(baskets), len(items)), bool)
    for row, basket in enumerate(baskets):
        for item in basket:
            if item not in column:
                raise ValueError(f"baskets must hold names from items; received {item!r} in basket {row}.")
            matrix[row, column[item]] = True
    return matrix


def leave_one_out(baskets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item of each basket is asked for once, given the others.

    Args:
        baskets: (B, N) bool.
    Returns:
        questions: (Q, N) bool, a basket without one item; Q is the number of items in all baskets. What came
            from a basket of one is empty.
        targets: (Q,) int, the item left out.
    Raises:
        ValueError: baskets are no (B, N) booleans.
    """
    rows, targets = np.nonzero(_checked(baskets))
    questions = baskets[rows]
    questions[np.arange(len(rows)), targets] = False
    return questions, targets


def held_out_ranks(recommender: Recommender, questions: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Where the item that was left out stands, among the items that are not in the basket.

    Args:
        recommender: What is judged.
        questions: (Q, N) bool, as of `leave_one_out`.
        targets: (Q,) int in [0, N).
    Returns:
        (Q,) int, 1 for the first place. Of equal scores the target takes the last place: who scores all
        alike recommends nothing.
    Raises:
        ValueError: Shapes do not fit, or a target is in its basket.
    """
    questions, targets = _checked(questions, "questions"), np.asarray(targets)
    if targets.shape != questions.shape[:1]:
        raise ValueError(f"targets must be ({len(questions)},), as questions; received {targets.shape}.")
    if np.take_along_axis(questions, targets[:, None], axis=1).any():
        raise ValueError("targets must not be in their baskets; received one that is.")
    return ranks_of(np.where(questions, -np.inf, recommender.scores(questions)), targets)


def recommend(recommender: Recommender, baskets: np.ndarray, k: int) -> np.ndarray:
    """The k items with the best scores that a basket does not hold yet.

    Args:
        recommender: What is asked.
        baskets: (B, N) bool; each lacks k items or more.
        k: How many, 1 <= k.
    Returns:
        (B, k) int, the best first, of equal ones the earlier first.
    Raises:
        ValueError: A basket lacks fewer than k items, or k is below 1.
    """
    check_at_least(1, k=k)
    if (least := int((~_checked(baskets)).sum(axis=1).min(initial=k))) < k:
        raise ValueError(f"k must be at most what each basket lacks; received k={k}, one lacks {least}.")
    scores = np.where(baskets, -np.inf, recommender.scores(baskets))
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


class Popularity:
    """Recommends to everybody what is in the most baskets.

    Args:
        baskets: (B, N) bool.
    Raises:
        ValueError: baskets are no (B, N) booleans.
    """

    def __init__(self, baskets: np.ndarray):
        self.counts = _checked(baskets).sum(axis=0).astype("float64")

    def scores(self, baskets: np.ndarray) -> np.ndarray:
        """The count of each item: (B, N) float."""
        return np.tile(self.counts, (len(baskets), 1))


class ItemKNN:
    """Recommends what often stands beside the items of the basket.

    Two items are alike by n_ij / (sqrt(n_i n_j) + shrinkage), n_ij being the baskets that hold both. A score
    is the sum over the basket.

    Args:
        baskets: (B, N) bool.
        shrinkage: >= 0; how many baskets it takes until a coincidence is believed.
    Raises:
        ValueError: baskets are no (B, N) booleans, or shrinkage is below 0.
    Source: Sarwar et al. 2001, section 3.1.1 (the cosine) and 3.2.1 (the sum). Differs: what is in a basket
    counts 1, and all items are neighbors; shrinkage, after Koren 2008, section 2.2.
    """

    def __init__(self, baskets: np.ndarray, shrinkage: float = 10.0):
        check_at_least(0, shrinkage=shrinkage)
        taken = _checked(baskets).astype("float64")
        together = taken.T @ taken
        lengths = np.sqrt(np.diag(together))
        np.fill_diagonal(together, 0)
        self.similarity = together / np.maximum(np.outer(lengths, lengths) + shrinkage, 1e-12)

    def scores(self, baskets: np.ndarray) -> np.ndarray:
        """Sum of the similarities to what is in the basket: (B, N) float."""
        return _checked(baskets).astype("float64") @ self.similarity


class ContentSimilarity:
    """Recommends what reads like the basket: needs a text for each item, and nobody's choices.

    Args:
        vectors: (N, D), a vector for each item's text, of length 1 so that products are cosines; a NumPy
            array or a SciPy sparse matrix, such as TF-IDF.
    Source: Pazzani and Billsus 2007 (the basket's profile is the sum of its vectors).
    """

    def __init__(self, vectors: Any):
        self.vectors = vectors

    def scores(self, baskets: np.ndarray) -> np.ndarray:
        """Sum of the cosines with what is in the basket: (B, N) float."""
        profiles = sparse.csr_matrix(_checked(baskets).astype("float64")) @ self.vectors
        scores = profiles @ self.vectors.T
        return scores.toarray() if sparse.issparse(scores) else np.asarray(scores)


@takes_plain_numbers
def basket_model(
    num_items: int,
    model_dim: int = 32,
    num_heads: int = 2,
    num_layers: int = 0,
    dropout: float = 0.5,
) -> keras.Model:
    """A network that reads a basket and scores what could be the next item.

    Args:
        num_items: Number of items N.
        model_dim, num_heads, dropout: see `EncoderBlock`; the feed-forward network is twice as wide.
        num_layers: Encoder blocks; 0: the mean of the items' vectors.
    Returns:
        Model from items (B, S) int, 1 to N and padding 0, to logits (B, N) float32. The order of the items
        changes nothing; an empty basket gives the bias of the last layer.
    Raises:
        ValueError: num_layers below 0, or as `EncoderBlock`.
    Source: Sun et al. 2019 (BERT4Rec), section 3; with num_layers=0, the CBOW of Mikolov et al. 2013a,
    section 3.1, for items. Differs: no positions, for a basket has no order; the mean instead of a mask.
    """
    check_at_least(1, num_items=num_items)
    check_at_least(0, num_layers=num_layers)
    check_shares(dropout=dropout)
    items = keras.Input((None,), dtype="int32", name="items")
    mask = padding_mask(items)
    start = keras.initializers.RandomNormal(stddev=0.1)
    x = layers.Embedding(num_items + 1, model_dim, start, name="embedding")(items)
    for i in range(num_layers):
        block = EncoderBlock(model_dim, num_heads, 2 * model_dim, dropout, name=f"encoder_{i}")
        x = block(x, attention_mask=mask)
    x = Dropout(dropout, name="dropout")(mean_of_real(x, mask))
    return keras.Model(items, layers.Dense(num_items, name="logits", dtype="float32")(x), name="basket_model")


class NextItem:
    """A `basket_model`, trained to name the item that a basket lacks.

    Args:
        num_items: Number of items N.
        max_length: Most items of a basket S; longer ones are refused.
        steps: Batches of 256 questions, >= 10.
        learning_rate: AdamW's peak, > 0.
        sizes: model_dim, num_heads, num_layers, dropout of `basket_model`.
    Attributes:
        model: The `basket_model`.
    Raises:
        ValueError: max_length below 1, steps below 10, or as `basket_model`; later, too long a basket.
    """

    def __init__(
        self, num_items: int, max_length: int, steps: int = 300, learning_rate: float = 1e-2, **sizes: float
    ):
        check_at_least(1, max_length=max_length)
        check_at_least(10, steps=steps)
        self.num_items, self.max_length, self.steps, self.sizes = num_items, max_length, steps, sizes
        self.model = basket_model(num_items, **sizes)
        optimizer = keras.optimizers.AdamW(WarmupCosine(learning_rate, steps // 10, steps), weight_decay=0.01)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer, loss, jit_compile=False)
        optimizer.build(self.model.trainable_variables)

    def fit(self, baskets: np.ndarray, seed: int = 0) -> "NextItem":
        """Trains from new weights on questions drawn from baskets (B, N) bool; returns itself.

        Before the first step it recommends what is popular: the last bias is the logarithm of the counts.
        """
        questions, targets = leave_one_out(baskets)
        keras.utils.set_random_seed(seed)
        self.model.set_weights(basket_model(self.num_items, **self.sizes).get_weights())
        self.model.get_layer("logits").bias.assign(np.log(baskets.sum(axis=0) + 1) - np.log(len(baskets)))
        for variable in self.model.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        drawn = np.random.default_rng(seed).integers(len(targets), size=256 * self.steps)
        self.model.fit(self._ids(questions)[drawn], targets[drawn], 256, shuffle=False, verbose=0)
        return self

    def scores(self, baskets: np.ndarray) -> np.ndarray:
        """The logits: (B, N) float."""
        return self.model.predict(self._ids(_checked(baskets)), batch_size=1024, verbose=0)

    def _ids(self, baskets):  # (B, S) int32
        if (most := baskets.sum(axis=1).max(initial=0)) > self.max_length:
            raise ValueError(f"baskets must hold at most {self.max_length} items; received {most}.")
        ids = np.where(baskets, np.arange(1, baskets.shape[1] + 1, dtype="int32"), 0)
        ids = -np.sort(-ids, axis=1)[:, : self.max_length]
        return np.pad(ids, ((0, 0), (0, self.max_length - ids.shape[1])))


def text_towers(table: np.ndarray, temperature: float = 0.1) -> tuple[keras.Model, keras.Model]:
    """A tower from the words of a text to a vector, and two of it that learn which texts belong together.

    Args:
        table: (V, M) float, the vector that each word starts with.
        temperature: What cosines are divided by in training, > 0.
    Returns:
        tower: Model from weighted words (B, V) float, such as TF-IDF, to vectors (B, M) of length 1.
        pairs: Model from [sources (B, V), targets (B, V)] to scores (B, B), with the tower's weights on both
            sides; compile it with retrieval's `in_batch_loss`; labels are the numbers of the targets.
    Raises:
        ValueError: table is no (V, M), or temperature is not above 0.
    Source: Yi et al. 2019, section 3. Differs: one tower for both sides, linear; no correction for frequent
    items.
    """
    table = np.asarray(table)
    if table.ndim != 2:
        raise ValueError(f"table must be (V, M); received shape {table.shape}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; received temperature={temperature}.")
    words = keras.Input(table.shape[:1], name="words")
    projection = layers.Dense(table.shape[1], use_bias=False, name="projection")
    tower = keras.Model(words, UnitLength()(projection(words)), name="tower")
    projection.set_weights([table])
    sides = [keras.Input(table.shape[:1], name=name) for name in ("source", "target")]
    source, target = map(tower, sides)
    scores = ops.matmul(source, ops.transpose(target)) / temperature
    return tower, keras.Model(sides, scores, name="pairs")


def _checked(baskets, name="baskets"):
    if getattr(baskets, "ndim", 0) != 2 or baskets.dtype != bool:
        kind = f"{getattr(baskets, 'dtype', type(baskets).__name__)} {getattr(baskets, 'shape', '')}"
        raise ValueError(f"{name} must be (B, N) booleans; received {kind}.")
    return baskets

"""Words and their vectors: look-up, neighbors, analogies, scores, an embedding layer, files."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from companion.base import check_at_least
from companion.subwords import Subwords, ngram_rows
from companion.tokenizer import SPECIALS, Tokenizer
from companion.vector_files import read_vectors, write_vectors
from companion.word_scores import AnalogyScore, SimilarityScore, solved

if TYPE_CHECKING:
    import keras  # imported where used: vectors need no Keras


class WordVectors:
    """Words, each with a vector; made by `word2vec`, `glove` or `fasttext`, or read by `load`.

    Args:
        words: N different words, the most frequent first where the frequency is known.
        vectors: (N, D) finite numbers.
        subwords: The n-grams of a fastText model, from which words outside get a vector too.
        counts: (N,) how often each word occurred, if known.
        history: What training measured, {"loss": one float for each epoch}.
    Attributes:
        words, vectors (float32), subwords, counts, history: As given. Do not change them in place.
    Raises:
        ValueError: A word is repeated, or the shapes do not fit, or a number is not finite.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: np.ndarray,
        subwords: Subwords | None = None,
        counts: np.ndarray | None = None,
        history: Mapping[str, Sequence[float]] | None = None,
    ):
        self.words, self.vectors = list(words), np.asarray(vectors, np.float32)
        self.subwords, self.counts, self.history = subwords, counts, dict(history or {})
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.words) or not self.vectors.size:
            shape = self.vectors.shape
            raise ValueError(
                f"vectors must be (N, D), a row for each of {len(self.words)} words; received {shape}."
            )
        self._index = {word: i for i, word in enumerate(self.words)}
        if len(self._index) < len(self.words):
            repeated = next(word for i, word in enumerate(self.words) if self._index[word] != i)
            raise ValueError(f"words must be different; received {repeated!r} twice.")
        self._lengths = np.linalg.norm(self.vectors, axis=1)
        if not np.isfinite(self._lengths).all():
            strange = self.words[np.flatnonzero(~np.isfinite(self._lengths))[0]]
            raise ValueError(f"vectors must be finite; received {strange!r} with another.")

    def __len__(self):
        return len(self.words)

    def __repr__(self):
        parts = f", subwords={len(self.subwords.table):,}" if self.subwords else ""
        return f"WordVectors({len(self):,} words, vector_dim={self.vector_dim}{parts})"

    @property
    def vector_dim(self) -> int:
        """Width D of a vector."""
        return self.vectors.shape[1]

    def __contains__(self, word):
        """Whether `self[word]` gives a vector: the word is one of words, or has a trained kind of n-gram."""
        return word in self._index or bool(
            isinstance(word, str)
            and self.subwords
            and ngram_rows(word, self.subwords.min_n, self.subwords.max_n, 1)
        )

    def __getitem__(self, word):
        """The vector (D,) of a word; with subwords, of any word that has an n-gram.

        Raises:
            KeyError: The word has no vector.
        """
        if word in self._index:
            return self.vectors[self._index[word]]
        if word in self:
            return self.subwords.compose(word)
        raise KeyError(f"{word!r} is none of the {len(self):,} words")

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words' vectors, in [-1, 1]; 0 where one is the zero vector.

        Raises:
            KeyError: A word has no vector.
        """
        return float(np.clip(_unit(self[a]) @ _unit(self[b]), -1, 1))

    def nearest(self, word: str | np.ndarray, k: int = 10) -> list[tuple[str, float]]:
        """The k words whose vectors lie nearest by cosine.

        Args:
            word: A word, which is left out itself; or a vector (D,).
            k: How many, at least 1.
        Returns:
            (word, cosine) pairs, the nearest first.
        Raises:
            KeyError: The word has no vector.
            ValueError: k is below 1, or a vector has another width.
        """
        known = isinstance(word, str)
        return self._ranked(self[word] if known else word, [word] if known else [], k)

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> list[tuple[str, float]]:
        """Completes "a is to b as c is to …": the words nearest to b - a + c, of vectors of length 1.

        Args:
            a, b, c: Words; they are no answers.
            k: How many, at least 1.
        Returns:
            (word, cosine) pairs, the nearest first.
        Raises:
            KeyError: A word has no vector.
            ValueError: k is below 1.
        Source: Mikolov et al. 2013c, section 4; named 3CosAdd by Levy and Goldberg 2014, section 3.1.
        """
        wanted = _unit(self[b]) - _unit(self[a]) + _unit(self[c])
        return self._ranked(wanted, [a, b, c], k)

    def evaluate_similarity(self, pairs: Iterable[tuple[str, str, float]]) -> SimilarityScore:
        """How well cosines order pairs of words as people do.

        Args:
            pairs: (word, word, score), a higher score for words more alike; `read_similarities` reads files
                of them. Pairs with a word that has no vector are left out and counted.
        Returns:
            SimilarityScore.
        Raises:
            ValueError: Fewer than two pairs have vectors, or all their scores or cosines are equal.
        Source: Spearman 1904; Finkelstein et al. 2002 for its use here.
        """
        from scipy import stats

        pairs = [(a, b, float(score)) for a, b, score in pairs]
        known = [(self.similarity(a, b), score) for a, b, score in pairs if a in self and b in self]
        cosines, scores = np.array(known).reshape(-1, 2).T
        if min(len({*cosines}), len({*scores})) < 2:
            raise ValueError(
                "pairs must hold two different scores, and cosines, of words that have vectors; "
                f"received {len(pairs)} pairs, {len(known)} of them with vectors."
            )
        correlation = stats.spearmanr(cosines, scores).statistic
        return SimilarityScore(float(correlation), len(known), len(pairs) - len(known))

    def evaluate_analogies(
        self, questions: Mapping[str, Iterable[tuple[str, str, str, str]]], most: int | None = None
    ) -> dict[str, AnalogyScore]:
        """The share of analogies whose first answer is the expected one, by section.

        Args:
            questions: {section: (a, b, c, d) quadruples}, d the answer to "a is to b as c is to …";
                `read_analogies` reads files of them. Those with a word that is not in words are left out and
                counted.
            most: Answers come from the most frequent of words; None: from all.
        Returns:
            {section: AnalogyScore}, and "total" over all questions.
        Source: Mikolov et al. 2013a, section 4.1.
        """
        unit = self.vectors / np.maximum(self._lengths, 1e-12)[:, None]
        most = len(self) if most is None else most
        scores = {}
        for section, asked in questions.items():
            asked = list(asked)
            rows = [[self._index.get(word, most) for word in question] for question in asked]
            if strange := [question for question, row in zip(asked, rows, strict=True) if len(row) != 4]:
                raise ValueError(
                    f"questions must hold four words each; received {strange[0]} in {section!r}."
                )
            known = np.array([row for row in rows if max(row) < most], int).reshape(-1, 4)
            scores[section] = AnalogyScore(solved(unit[:most], known), len(known), len(rows) - len(known))
        sums = np.sum([(0, 0, 0), *scores.values()], axis=0)
        return scores | {"total": AnalogyScore(*sums.tolist())}

    def embedding_table(self, tokenizer: Tokenizer, seed: int = 0) -> tuple[np.ndarray, list[str]]:
        """A row for each id of a tokenizer: its word's vector, or one that was drawn.

        Args:
            tokenizer: V ids. Its words must be spelled as these are (a `WordTokenizer` folds capitals).
            seed: For what is drawn.
        Returns:
            (V, D) float32, and the tokens that have no vector, special ones left out. Theirs, and those of
            the special ids, are drawn from the normal distribution that has the mean and the spread of each
            column of the vectors; the row of padding is zero.
        """
        names = tokenizer.tokens(range(tokenizer.vocabulary_size))
        random = np.random.default_rng(seed)
        table = random.normal(self.vectors.mean(0), self.vectors.std(0), (len(names), self.vector_dim))
        table[tokenizer.padding_id] = 0
        missing = []
        for i, name in enumerate(names[len(SPECIALS) :], start=len(SPECIALS)):
            if name in self:
                table[i] = self[name]
            else:
                missing.append(name)
        return table.astype(np.float32), missing

    def embedding_layer(
        self, tokenizer: Tokenizer, trainable: bool = False, seed: int = 0
    ) -> "keras.layers.Embedding":
        """A Keras layer that turns a tokenizer's ids into these vectors; it says how many words have none.

        Args:
            tokenizer: V ids.
            trainable: Whether training may change the vectors.
            seed: For the vectors of tokens without one, as `embedding_table` draws them.
        Returns:
            Built `keras.layers.Embedding`: (B, L) int to (B, L, D) float.
        """
        import keras

        table, missing = self.embedding_table(tokenizer, seed)
        number = len(table) - len(SPECIALS)
        shown = f", such as {', '.join(missing[:3])}" if missing else ""
        print(
            f"{number - len(missing):,} of {number:,} tokens have a vector; missing {len(missing):,}{shown}"
        )
        layer = keras.layers.Embedding(*table.shape, trainable=trainable, name="word_embedding")
        layer.build(None)
        layer.set_weights([table])
        return layer

    def save(self, path: str | os.PathLike, format: str | None = None) -> None:
        """Writes the vectors, whole or not at all, so that other tools read them too.

        Args:
            path: The file; ending in .gz, it is compressed.
            format: "glove" (text), "word2vec" (text with a header; also known as .vec), "word2vec-binary", or
                "fasttext" (.bin, with the n-grams; it needs subwords); None: by the suffix, .txt, .vec, or
                .bin, which is "fasttext" if there are subwords.
        Raises:
            ValueError: The format is unknown, or cannot hold one of the words.
        """
        write_vectors(path, self.words, self.vectors, format, self.subwords, self.counts)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        vocabulary: Collection[str] | None = None,
        format: str | None = None,
        member: str | None = None,
        progress: bool = True,
    ) -> "WordVectors":
        """Reads vectors in a format that `save` writes, also from inside a .gz or .zip.

        Args:
            path: The file.
            vocabulary: Keep only these words, in bounded memory, however large the file; None: all. From a
                fastText .bin their vectors are composed and the n-grams left behind.
            format: As for `save`; None: find out.
            member: The file in a .zip that holds several.
            progress: Show a bar, if the file is large.
        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, with the line or byte where; or none of vocabulary is in it.
        Source of the formats: the programs word2vec, GloVe and fastText of their papers' authors.
        """
        words, vectors, subwords, counts = read_vectors(path, vocabulary, format, member, progress)
        if not words:
            raise ValueError(f"vocabulary must hold a word of {path}; received {len(vocabulary)} others.")
        return cls(words, vectors, subwords, counts)

    def _ranked(self, vector, left_out, k):
        check_at_least(1, k=k)
        vector = np.asarray(vector, np.float32)
        if vector.shape != (self.vector_dim,):
            raise ValueError(
                f"word must be a string or a vector ({self.vector_dim},); received {vector.shape}."
            )
        cosines = self.vectors @ _unit(vector) / np.maximum(self._lengths, 1e-12)
        cosines[[self._index[word] for word in left_out if word in self._index]] = -np.inf
        k = min(k, len(self))
        best = np.flatnonzero(cosines >= np.partition(cosines, -k)[-k])  # of equals all, for a stable choice
        best = best[np.lexsort((best, -cosines[best]))][:k]
        return [(self.words[i], float(cosines[i])) for i in best if np.isfinite(cosines[i])]


def _unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-12)

"""A small assistant: ELIZA's rules, search among known replies and docstrings, "I do not know"."""

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from nltk.chat.util import reflections
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from companion.base import check_at_least
from companion.conversations import Dialogue, Turn, exchanges
from companion.library import Docstring, Rule

CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")  # its punctuation, too
BUCKETS = 2**18  # features that are hashed together count as one: with ten thousand, few are
UNKNOWN = {"en": "I do not know.", "zh": "我不知道。"}


class Passage(NamedTuple):
    """What the assistant may say: key is compared with the conversation, reply is said, source is its origin.

    refuses: A question that must not be answered; what comes near it counts against answering.
    """

    key: str
    reply: str
    source: str
    refuses: bool = False


class Reply(NamedTuple):
    """An answer, its source, and how much nearer than any refused question an answer is, in [-2, 1]."""

    text: str
    source: str
    score: float
    abstained: bool


def language_of(text: str) -> str:
    """ "zh" if a text holds a Chinese character or mark, else "en"."""
    return "zh" if CHINESE.search(text) else "en"


def features(text: str) -> list[str]:
    """The pieces by which two texts are compared.

    Returns:
        Of Latin script and digits: the words, in lower case, and their runs of four letters, a space marking
        where a word begins and ends. Of Chinese: the characters and pairs of neighbors.
    """
    found = []
    for run in re.findall(r"[a-z]+|\d+|[\u4e00-\u9fff]+", text.lower()):
        if CHINESE.match(run):
            found += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
        else:
            framed = f" {run} "
            found += [run, *(framed[i : i + 4] for i in range(len(framed) - 3))]
    return found


def eliza_reply(text: str, rules: Sequence[Rule]) -> str:
    """What ELIZA says: the first rule that fits, the user's own words turned around.

    Args:
        text: The user's words. Nothing else counts: ELIZA has no memory.
        rules: As `companion.eliza()` gives them; the last one fits everything.
    Returns:
        One of the rule's answers: always the same one to the same text. "" if no rule fits.
    Source: Weizenbaum 1966. Differs: NLTK's rules, without his ranks and memory; NLTK draws an answer.
    """
    for rule in rules:
        if found := re.match(rule.pattern, text, re.IGNORECASE):
            answer = rule.answers[zlib.crc32(text.encode()) % len(rule.answers)]
            echo = found[1].lower().rstrip(".!?") if found.lastindex else ""
            phrases = "|".join(map(re.escape, sorted(reflections, key=len, reverse=True)))
            echo = re.sub(rf"\b(?:{phrases})\b", lambda own: reflections[own[0]], echo)
            return answer.replace("%1", " ".join(echo.split()))
    return ""


def reply_passages(
    dialogues: Sequence[Dialogue], refused: str = "beyond", with_questions: bool = True
) -> list[Passage]:
    """What dialogues teach an assistant to say, and not to say.

    Args:
        dialogues: Known dialogues.
        refused: Of dialogues on this topic the user's turns become what must not be answered.
        with_questions: The key holds the user's last turn, too. False: the reply alone, for measuring: with
            the question in the index, finding its answer proves nothing.
    """
    passages = []
    for dialogue in dialogues:
        for history, reply in exchanges(dialogue):
            question = history[-1].text
            if dialogue.topic == refused:
                passages.append(Passage(question, reply, dialogue.id, refuses=True))
            else:
                key = f"{question} {reply}" if with_questions else reply
                passages.append(Passage(key, reply, dialogue.id))
    return passages


def docstring_passages(docs: Sequence[Docstring]) -> list[Passage]:
    """The first sentences of docstrings as answers, found by the documented name, too."""
    named = [(f"{doc.module}.{doc.name}", doc.summary) for doc in docs]
    return [Passage(f"{name} {summary}", summary, name) for name, summary in named]


class Assistant:
    """Answers with the nearest passage, or not at all. It holds no conversation: the history is an argument.

    Args:
        passages: What it may say, one that does not refuse at least.
        threshold: It answers from this score on; or one for each language, "en" and "zh". See `threshold_at`.
        decay: What a turn counts, relative to the one after it, in [0, 1]; 0: only the last turn counts.
        rules: ELIZA's, asked where the search falls short; then hardly anything is left unanswered.
        texts: On which the frequencies of `features` are counted; None: the keys of the passages.
    Raises:
        ValueError: No passage to answer with; decay out of range.
    Source: Lowe et al. 2015, section 4.1 (replies by TF-IDF). Differs: earlier turns fade; a feature
    that no text holds counts as the rarest, so that a question about unknown things is far from everything.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        threshold: float | Mapping[str, float] = 0.0,
        decay: float = 0.7,
        rules: Sequence[Rule] = (),
        texts: Sequence[str] | None = None,
    ):
        self.passages = list(passages)
        self.refusing = np.array([passage.refuses for passage in self.passages], bool)
        self.languages = np.array([language_of(passage.key) for passage in self.passages])
        if self.refusing.all():
            raise ValueError("passages must hold one that does not refuse; received none.")
        check_at_least(0, decay=decay)
        if decay > 1:
            raise ValueError(f"decay must be in [0, 1]; received {decay}.")
        each = threshold if isinstance(threshold, Mapping) else dict.fromkeys(UNKNOWN, threshold)
        self.thresholds, self.decay, self.rules = dict(each), decay, tuple(rules)
        keys = [passage.key for passage in self.passages]
        counts = HashingVectorizer(analyzer=features, n_features=BUCKETS, norm=None, alternate_sign=False)
        self.tfidf = make_pipeline(counts, TfidfTransformer(sublinear_tf=True))
        self.tfidf.fit(keys if texts is None else texts)
        self.keys = self.tfidf.transform(keys)

    @property
    def weights(self) -> list[np.ndarray]:
        """All numbers that decide what it says."""
        settings = np.array([*self.thresholds.values(), self.decay])
        return [self.tfidf[-1].idf_, self.keys.data, self.keys.indices, self.keys.indptr, settings]

    def query(self, history: Sequence[Turn]) -> csr_matrix:
        """The conversation as one unit vector, (1, V) sparse: its turns, the earlier the fainter."""
        if not history:
            raise ValueError("history must hold a turn or more; received none.")
        last = list(history)[::-1] if self.decay else [history[-1]]
        vectors = self.tfidf.transform([turn.text for turn in last])
        weights = self.decay ** np.arange(len(last))
        return normalize(csr_matrix(weights[None]) @ vectors)

    def similarities(self, history: Sequence[Turn]) -> np.ndarray:
        """Cosine of the conversation with the key of each passage, (P,) float in [0, 1]."""
        return self.keys @ self.query(history).toarray()[0]

    def reply(self, history: Sequence[Turn]) -> Reply:
        """Answers the last turn, in its language, with something not yet said.

        The history chooses the passage. Whether there is an answer is decided by the mean of two margins,
        with the history and without: a question in the middle of a talk must not be carried by those before.

        Args:
            history: All turns so far, the user's last.
        Returns:
            Reply; below the threshold ELIZA's words, if it has rules, or that it does not know.
        Raises:
            ValueError: history is empty.
        """
        similarities = np.stack([self.similarities(history), self.similarities(history[-1:])])
        language = language_of(history[-1].text)
        said = {turn.text for turn in history}
        new = np.array([passage.reply not in said for passage in self.passages])
        possible = ~self.refusing & new & (self.languages == language)
        refused = similarities[:, self.refusing & (self.languages == language)].max(axis=1, initial=0)
        scores = np.where(possible, similarities, -1)
        best = int(scores[0].argmax())
        score = float(np.mean(scores.max(axis=1) - refused))
        if possible.any() and score >= self.thresholds[language]:
            return Reply(self.passages[best].reply, self.passages[best].source, score, False)
        if words := eliza_reply(history[-1].text, self.rules):
            return Reply(words, "eliza", score, False)
        return Reply(UNKNOWN[language], "", score, True)


def threshold_at(scores: Sequence[float], false_refusals: float) -> float:
    """The highest threshold that refuses at most this share of questions which have an answer.

    Args:
        scores: (N,) scores of validation questions with an answer, at least one.
        false_refusals: Share, in [0, 1).
    Raises:
        ValueError: No scores, or the share is out of range.
    """
    if not len(scores) or not 0 <= false_refusals < 1:
        raise ValueError(
            f"scores must not be empty and false_refusals in [0, 1); received {len(scores)} scores and "
            f"{false_refusals}."
        )
    return float(np.sort(scores)[int(false_refusals * len(scores) + 1e-9)])


def weights_hash(model: keras.Model | Assistant) -> str:
    """SHA-256 over all weights, their shapes and types: 64 hexadecimal digits, equal only if nothing changed.

    Args:
        model: Or anything else with `weights`, a list of arrays or Keras variables.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.asarray(weight)
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

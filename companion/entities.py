"""Names in running text: found by a dictionary, or by a tagger that reads around them (article section 7.2).

The names are those of code in the docstrings of installed packages. Their authors marked them with
backquotes; without the marks, the sentences are the question, and the places of the marks the answer.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from companion.base import check_at_least
from companion.prose import is_prose, sections
from companion.sources import PACKAGES, sources

if TYPE_CHECKING:
    from spacy.language import Language

Span = tuple[int, int]
LABEL = "CODE"
MARK = re.compile(r"(?<![\w`:])(`{1,2})([A-Za-z_][\w.]*(?:\(\))?)\1(?![\w`_])")
LISTED = re.compile(r"^\w+:| : |\w: [A-Z]")  # parameters and their descriptions, "Returns: A list"
SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z`])")
SIZES = {"width": 64, "depth": 2}  # spaCy's own are 96 and 4, and slower


class Marked(NamedTuple):
    """A sentence without its marks, and from where to where in it a name of code stands."""

    text: str
    spans: tuple[Span, ...]
    package: str
    file: str

    @property
    def names(self) -> list[str]:
        """What stands in the spans."""
        return [self.text[start:end] for start, end in self.spans]


def marked_sentences(packages: Sequence[str] = PACKAGES) -> list[Marked]:
    """Sentences of docstrings in which the author marked one name of code or more.

    Args:
        packages: Import names; "stdlib" is Python's own library. What is not installed is skipped with a
            warning.
    Returns:
        Sentences of 5 to 40 words in the order of the files, each text once.
    """
    found: dict[str, Marked] = {}
    for source in sources(packages):
        for text, spans in chain.from_iterable(_marked(entry.doc) for entry in source.definitions):
            found.setdefault(text, Marked(text, spans, source.package, source.file))
    return list(found.values())


def known_names(sentences: Sequence[Marked], least: float = 0.0) -> set[str]:
    """A dictionary out of marked sentences.

    Args:
        sentences: Those of training.
        least: Share of a name's occurrences, as a word of its own, that must be marked, from 0 to 1; 0 keeps
            every name that was marked once.
    Returns:
        The names.
    Raises:
        ValueError: least is out of its range.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"least must be from 0 to 1; received least={least}.")
    marked = Counter(chain.from_iterable(sentence.names for sentence in sentences))
    written = Counter(chain.from_iterable(_pieces(sentence.text) for sentence in sentences))
    return {name for name, count in marked.items() if count >= least * max(count, written[name])}


def look_up(names: set[str], texts: Sequence[str]) -> list[list[Span]]:
    """Finds the names of a dictionary, the longest first where they overlap.

    Args:
        names: As `known_names` gives them; case counts.
        texts: N texts.
    Returns:
        For each text the spans of what was found, from left to right.
    """
    import spacy
    from spacy.matcher import PhraseMatcher
    from spacy.util import filter_spans

    nlp = spacy.blank("en")
    matcher = PhraseMatcher(nlp.vocab)
    matcher.add(LABEL, [nlp.make_doc(name) for name in sorted(names)])
    spans = (filter_spans(matcher(nlp.make_doc(text), as_spans=True)) for text in texts)
    return [[(span.start_char, span.end_char) for span in row] for row in spans]


def train_tagger(
    sentences: Sequence[Marked], epochs: int = 3, batch_size: int = 32, seed: int = 0
) -> "Language":
    """Trains spaCy's entity recognizer, small and from nothing, to mark what the authors marked.

    Args:
        sentences: Those of training; a sentence whose marks do not fall on spaCy's tokens is left out.
        epochs: Passes over them, >= 1.
        batch_size: Sentences to a step, >= 1.
        seed: Weights, order and dropout follow from it; of spaCy, NumPy and `random` it sets the global ones.
    Returns:
        A spaCy pipeline: `tag` reads with it.
    Raises:
        ValueError: a number below 1, or no sentence is left.
    Source: chunking by transitions, as in Lample et al. 2016, section 3. Differs: features and network are
    spaCy's (hashed words, first letter, last three, shape; a convolution over neighbors).
    """
    import spacy
    from spacy.training import Example

    check_at_least(1, epochs=epochs, batch_size=batch_size)
    spacy.util.fix_random_seed(seed)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner", config={"model": {"tok2vec": SIZES}})
    docs = [(nlp.make_doc(sentence.text), sentence.spans) for sentence in sentences]
    kept = [(doc, spans) for doc, spans in docs if all(doc.char_span(*span) for span in spans)]
    if not kept:
        raise ValueError("sentences must hold one whose spans fall on tokens; received none.")
    examples = [Example.from_dict(d, {"entities": [(*span, LABEL) for span in spans]}) for d, spans in kept]
    optimizer, order = nlp.initialize(lambda: examples[:100]), random.Random(seed)
    for _ in range(epochs):
        order.shuffle(examples)
        for start in range(0, len(examples), batch_size):
            nlp.update(examples[start : start + batch_size], sgd=optimizer, drop=0.2)
    return nlp


def tag(nlp: "Language", texts: Sequence[str]) -> list[list[Span]]:
    """The spans of the entities that a spaCy pipeline finds in each text, whatever their labels."""
    return [[(entity.start_char, entity.end_char) for entity in doc.ents] for doc in nlp.pipe(texts)]


def span_f1(expected: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> float:
    """F1 over all spans: both ends must be right.

    Args:
        expected: For each of N texts its (start, end) pairs.
        predicted: The same, as found.
    Returns:
        float in [0, 1]; 1 if there is nothing to find and nothing was found.
    Raises:
        ValueError: The two differ in number.
    Source: Tjong Kim Sang and De Meulder 2003, section 2 (the CoNLL score). Differs: one kind of name.
    """
    if len(expected) != len(predicted):
        counts = f"{len(expected)} and {len(predicted)}"
        raise ValueError(f"expected and predicted must be equally many; received {counts}.")
    gold = {(i, *span) for i, spans in enumerate(expected) for span in spans}
    found = {(i, *span) for i, spans in enumerate(predicted) for span in spans}
    return 2 * len(gold & found) / (len(gold) + len(found)) if gold or found else 1.0


def _marked(doc: str) -> Iterator[tuple[str, tuple[Span, ...]]]:
    paragraphs = "\n".join("\n".join(lines) + "\n" for _, lines in sections(doc)).split("\n\n")
    for paragraph in paragraphs:
        if ">>>" in paragraph or "::" in paragraph:
            continue
        for sentence in SENTENCE_END.split(" ".join(paragraph.split())):
            text, spans = _unmarked(sentence)
            fits = spans and "`" not in text and 5 <= len(text.split()) <= 40
            if (
                fits
                and re.match(r"[A-Z_a-z].*[.!?]$", text)
                and not LISTED.search(text)
                and is_prose(text, 3)
            ):
                yield text, spans


def _unmarked(sentence: str) -> tuple[str, tuple[Span, ...]]:
    parts, spans, at, last = [], [], 0, 0
    for mark in MARK.finditer(sentence):
        parts += [sentence[last : mark.start()], mark[2]]
        start = at + mark.start() - last
        at, last = start + len(mark[2]), mark.end()
        spans.append((start, at))
    return "".join([*parts, sentence[last:]]), tuple(spans)


def _pieces(text: str) -> list[str]:
    return [piece.strip(".,;:!?'\"") for piece in re.split(r"[\s,;]+", text)]

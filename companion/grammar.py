"""A synchronous grammar: one rule writes an English sentence and its Chinese translation together."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from companion.parallel import Pair

SLOT = re.compile(r"\{([a-z]+\d?)(?:([.@])(\w+))?\}")  # {slot}, {slot.form}, {slot@subject}
MISSES = 1000  # draws in a row that give nothing new: the construction is used up


class Construction(NamedTuple):
    """A pattern in both languages: {slot} is an entry's own words, {slot.form} another form of it,
    {activity@subject} the form that agrees with the subject."""

    name: str
    english: str
    chinese: str
    kinds: tuple[str, ...]
    held_out: bool


class Grammar(NamedTuple):
    """Constructions, and a lexicon: the entries of each category, each a dictionary of forms."""

    constructions: dict[str, Construction]
    lexicon: dict[str, list[dict]]


def read_grammar(path: str | os.PathLike) -> Grammar:
    """Read a grammar and derive the regular forms of its words.

    The file is JSON with three parts. "agreement": for each kind of subject the verb forms it asks for.
    "lexicon": for each category a list of entries, each with "en" and "zh", irregular forms, and what it goes
    with: an object is of a "kind", a verb or an adjective lists "kinds". "constructions": each with "name",
    "en", "zh", and perhaps "kinds" (of objects it takes) and "held_out".

    Args:
        path: Such a file, in UTF-8.
    Returns:
        Grammar.
    Raises:
        ValueError: a part, a field, a category or a form is missing.
    Source: synchronous grammars: Lewis and Stearns 1968; Chiang 2007, section 2. Differs: one level of slots.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if missing := {"agreement", "lexicon", "constructions"} - content.keys():
        raise ValueError(f"{Path(path).name} must have a part {sorted(missing)[0]!r}; it has none.")
    lexicon = {
        category: [_entry(entry, content["agreement"]) for entry in entries]
        for category, entries in content["lexicon"].items()
    }
    constructions = {}
    for rule in content["constructions"]:
        kinds, held_out = tuple(rule.get("kinds", ())), rule.get("held_out", False)
        construction = Construction(rule["name"], rule["en"], rule["zh"], kinds, held_out)
        _check(construction, lexicon)
        constructions[construction.name] = construction
    return Grammar(constructions, lexicon)


def grammar_pairs(
    grammar: Grammar, count: int = 10_000, constructions: Sequence[str] | None = None, seed: int = 0
) -> list[Pair]:
    """Sentence pairs drawn at random, from each construction about the same number.

    A source has one target. Split them with `split(pairs, key="target")`: a held-out pair is then an unseen
    combination of words. The constructions marked as held out come only when asked for by name.

    Args:
        grammar: What `read_grammar` returns.
        count: Pairs wanted, >= 0. Fewer come when the constructions cannot make as many.
        constructions: Names; None: all that are not held out.
        seed: Another seed draws other pairs.
    Returns:
        Pairs with distinct sources, shuffled; their kind is the construction's name.
    Raises:
        ValueError: count is negative, or there is no such construction.
    """
    known = grammar.constructions
    if constructions is None:
        constructions = [rule.name for rule in known.values() if not rule.held_out]
    if unknown := [name for name in constructions if name not in known]:
        raise ValueError(f"constructions must be among {', '.join(known)}; received {', '.join(unknown)}.")
    if count < 0:
        raise ValueError(f"count must not be negative; received count={count}.")
    sources: set[str] = set()
    streams, pairs = [_stream(grammar, known[name], seed, sources) for name in constructions], []
    while streams and len(pairs) < count:
        drawn = [next(stream, None) for stream in streams]
        streams = [stream for stream, pair in zip(streams, drawn, strict=True) if pair]
        pairs += [pair for pair in drawn if pair]
    pairs = pairs[:count]
    Random(seed).shuffle(pairs)
    return pairs


def _stream(grammar: Grammar, rule: Construction, seed: int, sources: set[str]) -> Iterator[Pair]:
    random, choices, misses = Random(f"{seed} {rule.name}"), _choices(rule, grammar.lexicon), 0
    while misses < MISSES:
        words = {slot: random.choice(entries) for slot, entries in choices.items()}
        source = _written(rule.english, words, "en") if _fit(words) else ""
        source = source[:1].upper() + source[1:]
        misses += 1
        if source and source not in sources:
            sources.add(source)
            misses = 0
            yield Pair(source, _written(rule.chinese, words, "zh"), rule.name)


def _fit(words: dict[str, dict]) -> bool:
    """No word comes twice; objects are of one kind, which verbs and adjectives take."""
    kinds = {word["kind"] for word in words.values() if "kind" in word}
    taken = all(kinds <= set(word["kinds"]) for word in words.values() if "kinds" in word)
    return taken and len(kinds) < 2 and len({word["en"] for word in words.values()}) == len(words)


def _choices(rule: Construction, lexicon: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """For each slot the entries that have every form the construction asks for."""
    forms: dict[str, set[str]] = {}
    for slot, mark, form in SLOT.findall(rule.english + rule.chinese):
        forms.setdefault(slot, {"en", "zh"}).add(form if mark == "." else "en")
        if mark == "@":
            forms[slot].add("third")
            forms.setdefault(form, set()).add("form")

    def fits(entry, wanted):
        of_kind = not rule.kinds or entry.get("kind", rule.kinds[0]) in rule.kinds
        return of_kind and wanted <= entry.keys()

    return {
        slot: [entry for entry in lexicon.get(slot.rstrip("0123456789"), ()) if fits(entry, wanted)]
        for slot, wanted in forms.items()
    }


def _written(pattern: str, words: dict[str, dict], language: str) -> str:
    def form(match):
        slot, mark, name = match.groups()
        return words[slot][words[name]["form"] if mark == "@" else name or language]

    return SLOT.sub(form, pattern)


def _check(rule: Construction, lexicon: dict[str, list[dict]]) -> None:
    english, chinese = ({slot for slot, _, _ in SLOT.findall(text)} for text in rule[1:3])
    if english != chinese:
        odd = ", ".join(sorted(english ^ chinese))
        raise ValueError(f"construction {rule.name!r} must have the same slots in both languages; not {odd}.")
    if empty := [slot for slot, entries in _choices(rule, lexicon).items() if not entries]:
        raise ValueError(f"construction {rule.name!r} must find words for its slots; none fits {empty[0]!r}.")


def _entry(entry: dict, agreement: dict[str, dict]) -> dict:
    """An entry with its regular forms, and those that its subjects ask for."""
    if missing := {"en", "zh"} - entry.keys():
        raise ValueError(f"entries must have 'en' and 'zh'; {entry} lacks {sorted(missing)[0]!r}.")
    first, _, rest = entry["en"].partition(" ")
    rest = rest and f" {rest}"
    ing = first[:-1] if first.endswith("e") else first
    regular = {
        "a": ("an " if entry["en"][0] in "aeiou" else "a ") + entry["en"],
        "plural": (plural := _with_s(entry["en"])),
        "all": entry.get("plural", plural),
        "third": _with_s(first) + rest,
        "ing": ing + "ing" + rest,
    }
    return regular | agreement.get(entry.get("agreement", ""), {}) | entry


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s")

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from companion.grammar import grammar_pairs, read_grammar
from companion.splits import split

FILE = Path(__file__).resolve().parents[1] / "data" / "grammar.json"
SMALL = {
    "agreement": {
        "one": {"be": "is", "form": "third"},
        "many": {"be": "are", "form": "en"},
    },
    "lexicon": {
        "subject": [
            {"en": "they", "zh": "他们", "agreement": "many"},
            {"en": "Ada", "zh": "阿达", "agreement": "one"},
        ],
        "activity": [{"en": "watch it", "zh": "看"}, {"en": "try it", "zh": "试"}],
        "verb": [{"en": "eat", "zh": "吃", "kinds": ["food"]}, {"en": "sew", "zh": "缝", "kinds": ["wear"]}],
        "object": [
            {"en": "egg", "zh": "蛋", "kind": "food"},
            {"en": "dress", "zh": "裙子", "kind": "wear"},
            {"en": "scarf", "plural": "scarves", "zh": "围巾", "kind": "wear"},
        ],
    },
    "constructions": [
        {"name": "do", "en": "{subject} {activity@subject}.", "zh": "{subject}{activity}。"},
        {
            "name": "ing",
            "en": "{subject} {subject.be} {verb.ing} {object.a}.",
            "zh": "{subject}{verb}{object}。",
        },
        {
            "name": "and",
            "en": "{object.plural}, {object2.all}",
            "zh": "{object}，{object2}",
            "held_out": True,
        },
    ],
}


@pytest.fixture(scope="module")
def grammar():
    return read_grammar(FILE)


@pytest.fixture(scope="module")
def pairs(grammar):
    return grammar_pairs(grammar, 12_000)


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "small.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path

    return written


def changed(part, *changes):
    content = json.loads(json.dumps(SMALL))
    content["constructions"][part].update(*changes)
    return content


def test_a_small_grammar_says_all_it_can_and_nothing_else(write):
    small = read_grammar(write(SMALL))
    assert {pair[:2] for pair in grammar_pairs(small, 100, ["do"])} == {
        ("They watch it.", "他们看。"),
        ("They try it.", "他们试。"),
        ("Ada watches it.", "阿达看。"),
        ("Ada tries it.", "阿达试。"),
    }
    assert {pair[:2] for pair in grammar_pairs(small, 100, ["ing"])} == {
        ("They are eating an egg.", "他们吃蛋。"),
        ("Ada is eating an egg.", "阿达吃蛋。"),
        ("They are sewing a dress.", "他们缝裙子。"),
        ("Ada is sewing a dress.", "阿达缝裙子。"),
        ("They are sewing a scarf.", "他们缝围巾。"),
        ("Ada is sewing a scarf.", "阿达缝围巾。"),
    }
    assert set(grammar_pairs(small, 100, ["and"])) == {
        ("Dresses, scarves", "裙子，围巾", "and"),
        ("Scarves, dresses", "围巾，裙子", "and"),
    }
    assert {pair.kind for pair in grammar_pairs(small, 100)} == {"do", "ing"}


def test_an_entry_without_a_form_and_an_object_of_another_kind_are_left_out(write):
    content = changed(1, {"kinds": ["food"]})
    assert {pair.target[-2:] for pair in grammar_pairs(read_grammar(write(content)), 9, ["ing"])} == {"蛋。"}
    content = changed(0, {"en": "{subject.nick} {activity}.", "zh": "{subject}{activity}。"})
    content["lexicon"]["subject"][1]["nick"] = "Ad"
    assert {pair.source[:2] for pair in grammar_pairs(read_grammar(write(content)), 9, ["do"])} == {"Ad"}


def test_the_lexicon_and_the_constructions_are_as_many_as_promised(grammar):
    entries = [entry for some in grammar.lexicon.values() for entry in some]
    assert 120 <= len(entries) <= 200
    held_out = [rule.name for rule in grammar.constructions.values() if rule.held_out]
    assert len(held_out) == 3 and 12 <= len(grammar.constructions) - 3 <= 16
    for category, some in grammar.lexicon.items():
        for side in ("en", "zh"):
            assert len({entry[side] for entry in some}) == len(some), category
    kinds = {entry["kind"] for entry in grammar.lexicon["object"]}
    for entry in [*grammar.lexicon["verb"], *grammar.lexicon["adjective"]]:
        assert set(entry["kinds"]) <= kinds, entry


def test_pairs_are_deterministic_seeded_and_distinct(grammar, pairs):
    assert len(pairs) == len({pair.source for pair in pairs}) == 12_000
    assert grammar_pairs(grammar, 300, seed=1) == grammar_pairs(grammar, 300, seed=1)
    assert grammar_pairs(grammar, 300, seed=1) != grammar_pairs(grammar, 300, seed=2)
    assert grammar_pairs(grammar, 0) == []


def test_questions_agree(grammar):
    for pair in grammar_pairs(grammar, 1_000, ["question 吗"]):
        several = re.search(r" (you|they|the students) ", pair.source) is not None
        assert pair.source.startswith("Do " if several else "Does "), pair


def test_every_construction_is_drawn_and_about_as_often(grammar, pairs):
    count = Counter(pair.kind for pair in pairs)
    assert set(count) == {rule.name for rule in grammar.constructions.values() if not rule.held_out}
    assert min(count.values()) > 400 and max(count.values()) < 2 * 12_000 / len(count)


def test_a_source_has_one_target_and_a_target_one_source(grammar, pairs):
    seen = defaultdict(set), defaultdict(set)
    everything = [*pairs, *grammar_pairs(grammar, 12_000, list(grammar.constructions), seed=1)]
    for pair in everything:
        seen[0][pair.source].add(pair.target)
        seen[1][pair.target].add(pair.source)
    assert all(len(some) == 1 for side in seen for some in side.values())


def test_sentences_are_well_formed(grammar, pairs):
    for pair in [*pairs, *grammar_pairs(grammar, 12_000, list(grammar.constructions), seed=2)]:
        assert re.fullmatch(r"[A-Z][\w ,]*[.?]", pair.source), pair
        assert "  " not in pair.source and pair.source.endswith("?") == pair.target.endswith("吗？"), pair
        assert re.fullmatch(r"[\u4e00-\u9fff]+(，[\u4e00-\u9fff]+)?[。？]", pair.target), pair
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", pair.source), pair
        if pair.source.endswith("?"):
            continue  # there "do" agrees, or "can" stands
        assert not re.search(r"\b(he|she|\w+er|Zhang Wei|Wang Fang) (are|do|want|like)\b", pair.source), pair
        assert not re.search(r"\b(I|we|you|they|students) (is|does|wants|likes)\b", pair.source, re.I), pair
        assert not re.search(r"(二|两两|一一)[个本只件]", pair.target), pair


@pytest.mark.parametrize(
    ("kind", "pattern", "target"),
    [
        ("completed 了", r"I bought an umbrella yesterday\.", "我昨天买了一把雨伞。"),
        ("not done 没有", r"She did not eat that cake yesterday\.", "她昨天没有吃那个蛋糕。"),
        ("in progress 正在", r"They are drawing a horse\.", "他们正在画一匹马。"),
        ("wish 想", r"We want to buy two scarves\.", "我们想买两条围巾。"),
        ("comparison 比", r"This car is more expensive than that bicycle\.", "这辆汽车比那辆自行车贵。"),
        ("disposal 把", r"He put that key in the drawer\.", "他把那把钥匙放在抽屉里了。"),
        ("existence 有", r"There are three books on the table\.", "桌子上有三本书。"),
        ("relative clause 的", r"The letter that I wrote was very interesting\.", "我写的信很有意思。"),
        ("question of ability 会…吗", r"Can you swim\?", "你会游泳吗？"),
        (
            "wish and place 想…在",
            r"My younger brother wants to play chess at home\.",
            "我弟弟想在家下棋。",
        ),
    ],
)
def test_known_sentences_are_translated_as_known(grammar, kind, pattern, target):
    found = [p for p in grammar_pairs(grammar, 100_000, [kind]) if re.fullmatch(pattern, p.source)]
    assert [pair.target for pair in found] == [target]


def test_held_out_pairs_are_made_of_words_that_training_shows(grammar, pairs):
    parts = split(pairs, key="target")
    held_out = [rule.name for rule in grammar.constructions.values() if rule.held_out]
    unseen = grammar_pairs(grammar, 3_000, held_out)
    known = {word for pair in parts.train for word in re.findall(r"\w+", pair.source.lower())}
    characters = {character for pair in parts.train for character in pair.target}
    for pair in [*parts.test, *unseen]:
        assert set(re.findall(r"\w+", pair.source.lower())) <= known, pair
        assert set(pair.target) <= characters, pair
    assert not {pair.source for pair in parts.train} & {pair.source for pair in [*parts.test, *unseen]}


def test_bad_arguments(grammar):
    with pytest.raises(ValueError, match="constructions must be among completed 了, .*; received passive"):
        grammar_pairs(grammar, 10, ["passive"])
    with pytest.raises(ValueError, match="count must not be negative; received count=-1"):
        grammar_pairs(grammar, -1)


def test_bad_files_are_named(write):
    with pytest.raises(ValueError, match=r"small\.json must have a part 'agreement'; it has none"):
        read_grammar(write({"lexicon": {}, "constructions": []}))
    with pytest.raises(ValueError, match="'do' must have the same slots in both languages; not activity"):
        read_grammar(write(changed(0, {"zh": "{subject}。"})))
    with pytest.raises(ValueError, match="'do' must find words for its slots; none fits 'place'"):
        read_grammar(write(changed(0, {"en": "{place}", "zh": "{place}"})))
    with pytest.raises(ValueError, match="none fits 'subject'"):
        read_grammar(write(changed(0, {"en": "{subject.past}", "zh": "{subject}"})))
    content = changed(0, {})
    content["lexicon"]["verb"].append({"en": "cut"})
    with pytest.raises(ValueError, match="entries must have 'en' and 'zh'; .* lacks 'zh'"):
        read_grammar(write(content))


def test_natural_pairs_are_a_clean_reading_set(grammar):
    """data/sentence_pairs.tsv: nothing twice, each side in its language, nothing that the grammar makes."""
    header, *lines = (FILE.parent / "sentence_pairs.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    assert header.split("\t") == ["english", "chinese", "topic"] and {len(row) for row in rows} == {3}
    assert 300 <= len(rows) <= 400
    for side in (0, 1):
        assert len({row[side] for row in rows}) == len(rows)
    topics = Counter(topic for _, _, topic in rows)
    assert len(topics) >= 12 and min(topics.values()) >= 15
    programming = sum(topics[topic] for topic in ("basics", "errors", "tools", "data", "models", "team"))
    assert 0.3 < programming / len(rows) < 0.5
    for english, chinese, _ in rows:
        assert 3 <= len(re.findall(r"[\w'-]+", english)) <= 20, english
        assert english[0].isupper() and english[-1] in ".?!" and english.isascii(), english
        assert chinese[-1] in "。？！" and re.search(r"[\u4e00-\u9fff]", chinese), chinese
        assert not re.search(r"[,.?!;:]|  ", chinese), chinese
    drawn = grammar_pairs(grammar, 30_000, list(grammar.constructions))
    assert not {pair.source for pair in drawn} & {row[0] for row in rows}

import hashlib
import random
from collections import Counter, defaultdict
from typing import NamedTuple

import pytest

from companion import splits


class Record(NamedTuple):
    text: str
    file: str


WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("ran", "lim", "tos", "ved")]


def paragraphs(count, seed=0, least=30, most=50):
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(least, most))) for _ in range(count)]


def test_split_of_is_the_first_64_bits_of_sha256():
    for key in map(str, range(200)):
        position = int(hashlib.sha256(f"\0{key}".encode()).hexdigest()[:16], 16) / 16**16
        expected = "train" if position < 0.8 else "validation" if position < 0.9 else "test"
        assert splits.split_of(key) == expected


def test_split_of_has_the_shares_asked_for():
    count = Counter(splits.split_of(str(i), (0.5, 0.2, 0.3)) for i in range(20_000))
    assert count["train"] == pytest.approx(10_000, abs=400)
    assert count["validation"] == pytest.approx(4_000, abs=300)
    assert count["test"] == pytest.approx(6_000, abs=300)


def test_salt_gives_an_independent_split():
    same = sum(splits.split_of(str(i)) == splits.split_of(str(i), salt="x") for i in range(5000)) / 5000
    assert same == pytest.approx(0.8**2 + 0.1**2 + 0.1**2, abs=0.03)


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_split_of_refuses_fractions(fractions):
    with pytest.raises(ValueError, match=r"three shares that sum to 1; received fractions=\("):
        splits.split_of("a", fractions)


def test_split_keeps_every_record_once_and_files_together():
    records = [Record(f"text {i}", f"file {i % 50}") for i in range(1000)]
    parts = splits.split(records, key="file")
    assert sorted(sum(parts, [])) == sorted(records)
    sides = [{record.file for record in part} for part in parts]
    assert all(sides) and not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])


def test_adding_records_moves_none():
    records = [Record(f"text {i}", f"file {i}") for i in range(500)]
    before, after = splits.split(records[:400], key="file"), splits.split(records, key=lambda r: r.file)
    assert all(set(old) <= set(new) for old, new in zip(before, after, strict=True))


def test_split_with_text_keeps_copies_and_files_on_one_side():
    texts = paragraphs(600)
    records = [Record(text, f"file {i // 2}") for i, text in enumerate(texts)]
    records += [Record(text.upper() + ".", f"copy {i}") for i, text in enumerate(texts[::3])]
    parts = splits.split(records, key="file", text="text")
    assert sorted(sum(parts, [])) == sorted(records)
    sides = defaultdict(set)
    for side, part in enumerate(parts):
        for record in part:
            sides[record.file].add(side)
            sides[splits.normalize(record.text)].add(side)
    assert all(len(found) == 1 for found in sides.values())


def test_the_same_without_text_leaks_copies():
    texts = paragraphs(300)
    records = [Record(text, str(i)) for i, text in enumerate(texts)] + [
        Record(text, f"b{text}") for text in texts
    ]
    for parts in (splits.split(records, key="file"), splits.random_split(records)):
        train = {record.text for record in parts.train}
        leaked = sum(record.text in train for record in parts.test) / len(parts.test)
        assert leaked == pytest.approx(0.8, abs=0.15)


def test_random_split_is_seeded_and_complete():
    records = list(range(1000))
    parts = splits.random_split(records, seed=1)
    assert [len(part) for part in parts] == [800, 100, 100] and sorted(sum(parts, [])) == records
    assert parts == splits.random_split(records, seed=1) != splits.random_split(records, seed=2)
    assert records == list(range(1000))


def test_normalize():
    assert splits.normalize("  The `axis_1`, (12.5) — Ünï!") == "the axis 0 0 0 ünï"


def test_near_duplicates_finds_planted_copies_and_only_those():
    texts = paragraphs(3000)
    generator = random.Random(1)
    planted = []
    for text in texts[:300]:
        words = text.upper().split()
        words[generator.randrange(len(words))] = "altered"  # 3 of 30 or more shingles
        planted.append(", ".join(words) + "!")
    clusters = splits.near_duplicates(texts + planted)
    assert clusters[:3000] == list(range(3000))
    assert sum(cluster == i for i, cluster in enumerate(clusters[3000:])) >= 297


def test_near_duplicates_estimates_the_jaccard_similarity():
    base = paragraphs(1, least=200, most=200)[0].split()
    halves = [" ".join(base[:150]), " ".join(base[50:])]  # 98 of 198 or so: about one half
    assert splits.near_duplicates(halves, threshold=0.75) == [0, 1]
    assert splits.near_duplicates(halves, threshold=0.25) == [0, 0]


def test_near_duplicates_of_short_empty_and_chinese_texts():
    texts = ["", "Returns 1.", "returns 2", "", "我爱北京天安门。", "我爱北京天安门", "return"]
    assert splits.near_duplicates(texts) == [0, 1, 1, 0, 4, 4, 6]
    assert splits.near_duplicates([]) == [] and splits.near_duplicates(["a"]) == [0]


@pytest.mark.parametrize("threshold", [0, 1.5])
def test_near_duplicates_refuses_a_threshold(threshold):
    with pytest.raises(ValueError, match=rf"in \(0, 1\]; received threshold={threshold}"):
        splits.near_duplicates(["a", "b"], threshold)

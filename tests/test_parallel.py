import importlib.util
import re
from collections import Counter, defaultdict

import pytest

from companion import parallel, splits
from companion.parallel import KINDS, LONGEST, interface_strings, language_names, translation_pairs


@pytest.fixture(scope="module")
def pairs():
    return translation_pairs()


MONTHS = {"January": 1, "May": 5, "December": 12}
DAYS = dict(
    zip("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(), "一二三四五六日", strict=True)
)
COUNTRIES = {
    "France": "法国",
    "Japan": "日本",
    "Germany": "德国",
    "Canada": "加拿大",
    "India": "印度",
    "Peru": "秘鲁",
}
SOME = "|".join(COUNTRIES)


def test_there_are_as_many_pairs_as_asked_for_in_their_shares(pairs):
    assert len(pairs) == len({pair.source for pair in pairs}) == 20_000
    count = Counter(pair.kind for pair in pairs)
    assert set(count) == set(KINDS) and sum(KINDS.values()) == 100
    for kind, share in KINDS.items():
        if kind not in ("country", "currency"):
            assert share <= count[kind] / 200 < share * 1.1
    assert 80 <= count["country"] <= 103 and 50 <= count["currency"] <= 110


def test_pairs_are_deterministic_and_seeded(pairs):
    assert translation_pairs() == pairs
    assert translation_pairs(200, seed=1) == translation_pairs(200, seed=1) != translation_pairs(200, seed=2)


def test_a_source_has_one_target_whatever_the_seed(pairs):
    targets = {pair.source: pair.target for pair in pairs}
    others = translation_pairs(20_000, seed=7)
    again = [pair for pair in others if pair.source in targets]
    assert len(again) > 500 and all(targets[pair.source] == pair.target for pair in again)


def test_pairs_are_short_and_each_side_is_in_its_language(pairs):
    for pair in pairs:
        assert 0 < len(pair.source) <= LONGEST and 0 < len(pair.target) <= LONGEST
        assert not re.search(r"[\u3000-\u9fff\uff00-\uffef\u2009\u202f\xa0]|  ", pair.source), pair
        assert not re.search(r"[\u2009\u202f\xa0]|  ", pair.target), pair
        if pair.kind != "money":  # there, symbols: CA$4 is CA$4
            assert re.search(r"[\u4e00-\u9fff/]", pair.target), pair
            assert not re.search(r"[A-Za-z]", pair.target), pair
    assert sum(bool(re.search(r"[\u4e00-\u9fff]", pair.target)) for pair in pairs) > 0.93 * len(pairs)


@pytest.mark.parametrize(
    ("kind", "pattern", "write"),
    [
        (
            "date",
            r"(\w{4,}), (January|May|December) (\d+), (\d+)",
            lambda day, month, number, year: f"{year}年{MONTHS[month]}月{number}日星期{DAYS[day]}",
        ),
        ("date", r"(\d+)/(\d+)/(\d\d)", lambda m, d, y: f"{'20' if y < '50' else '19'}{y}/{m}/{d}"),
        ("datetime", r"May (\d+), (\d+), (\d+:\d+) PM", lambda d, y, time: f"{y}年5月{d}日下午{time}"),
        ("time", r"(\d+:\d+:\d+) AM", lambda time: f"上午{time}"),
        ("relative", r"in (\d+) days", lambda n: f"{n}天后"),
        ("interval", r"May (\d+) – (\d+), (\d+)", lambda a, b, y: f"{y}年5月{a}日至{b}日"),
        ("money", r"([\d,.]+) US dollars?", lambda n: f"{n}美元"),
        ("unit", r"([\d,.]+) kilometers? per hour", lambda n: f"每小时{n}公里"),
        ("list", rf"({SOME}) and ({SOME})", lambda a, b: f"{COUNTRIES[a]}和{COUNTRIES[b]}"),
        ("language", r"French \(Japan\)", lambda: "法语（日本）"),
    ],
)
def test_known_patterns_are_translated_as_known(kind, pattern, write):
    found = [
        (match.groups(), pair.target)
        for pair in translation_pairs(15_000, [kind])
        if (match := re.fullmatch(pattern, pair.source))
    ]
    assert found
    for groups, target in found:
        assert target == write(*groups)


def test_word_order_crosses(pairs):
    """In most dates the year comes last in English and first in Chinese."""
    dates = [
        pair for pair in pairs if pair.kind in ("date", "datetime") and re.search(r", \d{4}", pair.source)
    ]
    assert len(dates) > 4_000
    assert all(re.match(r"\d{4}年", pair.target) and not re.match(r"\d{4}", pair.source) for pair in dates)


def test_no_source_and_no_target_is_on_two_sides(pairs):
    parts = splits.split(pairs, key="target")
    for field in ("source", "target"):
        sides = [{getattr(pair, field) for pair in part} for part in parts]
        assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])
    kinds = Counter(pair.kind for pair in parts.test)
    assert set(kinds) == set(KINDS) and 0.08 < len(parts.test) / len(pairs) < 0.12


def test_held_out_pairs_are_made_of_pieces_that_training_shows(pairs):
    parts = splits.split(pairs, key="target")
    words = [{word for pair in part for word in re.findall(r"[^\W\d]+", pair.source)} for part in parts]
    characters = [{character for pair in part for character in pair.target} for part in parts]
    assert words[2] <= words[0] and words[1] <= words[0]
    assert characters[2] <= characters[0] and characters[1] <= characters[0]
    count = Counter(word for pair in parts.train for word in set(re.findall(r"[^\W\d]+", pair.source)))
    assert sorted(count.values())[len(count) // 20] >= 8  # all but a twentieth of them eight times or more


def test_unseen_names_occur_nowhere_else(pairs):
    unseen = translation_pairs(kinds=["unseen"])
    assert 10 <= len(unseen) <= 60 and {pair.kind for pair in unseen} == {"unseen"}
    for name in unseen:
        sides = re.compile(rf"(?<!\w){re.escape(name.source)}(?!\w)"), re.compile(re.escape(name.target))
        assert not [
            pair for pair in pairs if sides[0].search(pair.source) and sides[1].search(pair.target)
        ], name


def test_one_kind_can_be_had_alone_and_ends_when_it_is_used_up():
    assert {pair.kind for pair in translation_pairs(50, ["unit"])} == {"unit"}
    assert translation_pairs(0) == []
    countries = translation_pairs(1_000, ["country"])
    assert 80 <= len(countries) <= len(parallel.COUNTRIES)
    assert ("France", "法国") in {pair[:2] for pair in countries}


def test_bad_arguments():
    with pytest.raises(ValueError, match="kinds must be among date, .*, unseen; received poem, song"):
        translation_pairs(kinds=["date", "poem", "song"])
    with pytest.raises(ValueError, match="count must not be negative; received count=-1"):
        translation_pairs(-1)


def test_countries_languages_and_units_are_in_both_languages():
    for table, codes in (("territories", parallel.COUNTRIES), ("languages", parallel.LANGUAGES)):
        assert len(set(codes)) == len(codes)
        for locale in (parallel.ENGLISH, parallel.CHINESE):
            assert set(codes) <= set(getattr(locale, table))
    assert len(parallel._units()) > 50


def test_interface_strings(monkeypatch, tmp_path):
    folder = tmp_path / "jupyterlab_language_pack_zh_CN" / "locale"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    content = '{"": {"domain": "a"}, "Run": ["运行"], "menu\\u0004Cut": ["剪切"], "OK": ["OK"], "Late": [""]}'
    (folder / "a.json").write_text(content, encoding="utf-8")
    (folder / "b.json").write_text('{"Run": ["执行"]}', encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert interface_strings() == [("Run", "运行", "interface"), ("Cut", "剪切", "interface")]


def test_interface_strings_without_the_pack(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="pip install jupyterlab-language-pack-zh-CN"):
        assert interface_strings() == []


def test_language_names():
    names = language_names()
    count = Counter(name.language for name in names)
    assert len(count) == 30 and min(count.values()) > 300 and 10_000 < len(names) < 60_000
    assert len({name.text for name in names}) == len(names)
    by_text = defaultdict(set)
    for name in names:
        by_text[name.text].add(name.language)
    assert by_text["Dienstag"] == {"de"}
    assert by_text["日本"] == {"ja"}
    assert by_text["Malta"] == set()  # in many of them

"""English-Chinese pairs from installed packages: CLDR through Babel, the interface of JupyterLab."""

import functools
import importlib.util
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

from babel import Locale, dates, lists, numbers, units

from companion.splits import split_of

ENGLISH, CHINESE = Locale("en"), Locale("zh")
LONGEST = 48  # characters of a source
KINDS = {  # shares in per cent; the kinds of bare names end early, there are only so many
    "date": 22, "time": 8, "datetime": 13, "interval": 15, "relative": 4, "money": 12, "unit": 12,
    "list": 9, "language": 3, "currency": 1, "country": 1,
}  # fmt: skip
COUNTRIES = """AR AT AU BD BE BG BO BR CA CH CL CN CO CR CU CZ DE DK DO DZ EC EE EG ES ET FI FR GB GH GR GT
HN HR HU ID IE IL IN IQ IR IS IT JM JO JP KE KH KR KZ LA LB LK LT LU LV MA MG MN MT MX MY MZ NA NG NL NO NP
NZ OM PA PE PH PK PL PT PY QA RO RS RU SA SE SG SI SK SN SV TH TN TR TZ UA UG US UY UZ VE VN YE ZA ZM
ZW""".split()
LANGUAGES = """af am ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy id
is it ja ka kk km ko la lb lo lt lv mk mn ms mt my ne nl no pl pt ro ru sa sk sl sq sr sv sw ta te th tr uk
ur uz vi zh zu""".split()
UNITS = """kilometer meter centimeter millimeter mile foot inch light-year nautical-mile square-kilometer
square-meter hectare acre liter milliliter cubic-meter gallon cup teaspoon kilogram gram milligram tonne pound
ounce carat day hour minute second week month year century kilometer-per-hour meter-per-second mile-per-hour
knot meter-per-square-second liter-per-kilometer mile-per-gallon milligram-ofglucose-per-deciliter celsius
fahrenheit kelvin degree radian byte kilobyte megabyte gigabyte terabyte bit pixel megapixel hertz kilohertz
megahertz gigahertz watt kilowatt horsepower joule calorie kilowatt-hour newton volt ampere ohm pascal bar
atmosphere lumen""".split()
SYMBOLS = "USD EUR GBP JPY CNY INR KRW CHF CAD AUD".split()
# Some come more often.
DATES = "full full long long medium medium short yMMMEd yMMMEd MMMMd yMMMM yQQQQ".split()
TIMES = "hm hms Bhm Ehm EBhm".split()
INTERVALS = "yMMMd yMMMd yMMMEd MMMd yMMMM hm hm h".split()
READABLE = "en de fr es pt it nl sv da fi pl cs hu ro tr vi id et lv sl ru uk bg el he ar fa hi th ja".split()


class Pair(NamedTuple):
    """An English text, its Chinese translation, and what it is about."""

    source: str
    target: str
    kind: str


class Name(NamedTuple):
    """A name as one language writes it."""

    text: str
    language: str


def translation_pairs(count: int = 20_000, kinds: Sequence[str] | None = None, seed: int = 0) -> list[Pair]:
    """English-Chinese pairs made from CLDR patterns: dates, amounts, names and lists, drawn at random.

    Each style of source has one style of target, so a translation can be exactly right. Split them with
    `split(pairs, key="target")`: then neither a source nor a target is on two sides. A held-out pair is an
    unseen combination (a date, an amount, a list) of pieces that training shows. A tenth of all names is kept
    out of every other pair and makes the kind "unseen", given only when asked for: hardly one can be known.

    Args:
        count: Pairs wanted. Fewer come when the kinds asked for cannot make as many.
        kinds: Some of KINDS or "unseen"; None: all of KINDS in their shares.
        seed: Another seed draws other pairs.
    Returns:
        Pairs with distinct sources of at most 48 characters, shuffled.
    Raises:
        ValueError: count is negative, or there is no such kind.
    """
    kinds = tuple(KINDS if kinds is None else kinds)
    if unknown := [kind for kind in kinds if kind not in _MAKERS]:
        raise ValueError(f"kinds must be among {', '.join(_MAKERS)}; received {', '.join(unknown)}.")
    if count < 0:
        raise ValueError(f"count must not be negative; received count={count}.")
    found: dict[str, Pair] = {}
    shares = [KINDS.get(kind, 1) for kind in kinds]
    order = sorted(range(len(kinds)), key=lambda i: shares[i])  # small kinds first: the large ones fill up
    for place, i in enumerate(order):
        rest = sum(shares[j] for j in order[place:])
        _draw(kinds[i], len(found) + round((count - len(found)) * shares[i] / rest), seed, found)
    pairs = list(found.values())
    Random(seed).shuffle(pairs)
    return pairs


def interface_strings() -> list[Pair]:
    """The interface of JupyterLab in English and Chinese, from its language pack.

    Returns:
        Pairs of the kind "interface" with distinct sources; none, with a warning, when the pack is not
        installed.
    """
    spec = importlib.util.find_spec("jupyterlab_language_pack_zh_CN")
    if spec is None:
        warnings.warn("interface strings need: pip install jupyterlab-language-pack-zh-CN.", stacklevel=2)
        return []
    found = {}
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.json")):
        for source, targets in json.loads(path.read_text("utf-8")).items():
            source = source.split("\x04")[-1]  # gettext writes context, \x04, text
            if source and targets[0] and targets[0] != source:
                found.setdefault(source, Pair(source, targets[0], "interface"))
    return list(found.values())


def language_names() -> list[Name]:
    """Names of languages, countries, currencies and months in thirty languages: which language is it?

    Returns:
        Names labeled by language code; none that two languages write alike.
    """
    found = {
        (text, code)
        for code in READABLE
        for text in _words(Locale(code))
        if not text.isascii() or len(text) > 2
    }
    count = Counter(text for text, _ in found)
    return [Name(text, code) for text, code in sorted(found) if count[text] == 1]


def _words(locale: Locale) -> list[str]:
    tables = (
        locale.languages,
        locale.territories,
        locale.currencies,
        locale.months["format"]["wide"],
        locale.days["format"]["wide"],
    )
    return [text for table in tables for text in table.values() if re.search(r"[^\W\d]", text)]


def _draw(kind: str, wanted: int, seed: int, found: dict[str, Pair]) -> None:
    random, misses = Random(f"{seed} {kind}"), 0
    while len(found) < wanted and misses < 1000:
        # CLDR's spaces are of many widths
        source, target = (" ".join(text.split()) for text in _MAKERS[kind](random))
        misses += 1
        if len(source) <= LONGEST and source not in found:
            found[source], misses = Pair(source, target, kind), 0


def _both(write: Callable, *args, **options) -> tuple[str, str]:
    return write(*args, **options, locale=ENGLISH), write(*args, **options, locale=CHINESE)


def _moment(random: Random) -> datetime:
    seconds = random.randrange(100 * 365 * 86400)  # "4/9/74": one century
    return datetime(1950, 1, 1) + timedelta(seconds=seconds)


def _amount(random: Random, digits: float, places: int) -> float:
    """From 2, as often 10 to 100 as 100 to 1000: "1 gram" would be the only source with this word."""
    return round(10 ** random.uniform(0.3, digits), places)


def _date(random: Random) -> tuple[str, str]:
    moment, style = _moment(random), random.choice(DATES)
    if style.islower():
        return _both(dates.format_date, moment, style)
    return _both(dates.format_skeleton, style, moment)


def _time(random: Random) -> tuple[str, str]:
    moment, style = _moment(random), random.choice(TIMES)
    return _both(dates.format_skeleton, style, moment)


def _datetime(random: Random) -> tuple[str, str]:
    moment, style = _moment(random), random.choice(["full", "full", "long", "medium"])
    day, time = _both(dates.format_date, moment, style), _both(dates.format_skeleton, "hm", moment)
    return f"{day[0]}, {time[0]}", day[1] + time[1]


def _interval(random: Random) -> tuple[str, str]:
    start, style = _moment(random), random.choice(INTERVALS)
    longest = {"h": 10, "hm": 10, "yMMMM": 24 * 400}.get(style, 24 * 40)  # hours
    end = start + timedelta(hours=longest * random.uniform(0.1, 1))
    return _both(dates.format_interval, start, end, style)


def _relative(random: Random) -> tuple[str, str]:
    unit = random.choice(["seconds", "minutes", "hours", "days", "weeks"])
    delta = timedelta(**{unit: random.randint(2, 120) * random.choice([-1, 1])})
    return _both(dates.format_timedelta, delta, unit[:-1], threshold=1e9, add_direction=True)


def _money(random: Random) -> tuple[str, str]:
    style, places = random.choice(["name", "name", "standard"]), random.choice([0, 2])
    code = random.choice(_names()["currency"] if style == "name" else SYMBOLS)
    pattern = "\xa4" * (style == "standard") + ("#,##0.00" if places else "#,##0")
    amount = _amount(random, 5, places)
    return _both(numbers.format_currency, amount, code, pattern, currency_digits=False, format_type=style)


def _unit(random: Random) -> tuple[str, str]:
    code, length = random.choice(_units())
    amount = _amount(random, 3.5, random.choice([0, 0, 1]))
    english = units.format_unit(amount, code, locale=ENGLISH)
    return english, units.format_unit(amount, code, length, locale=CHINESE)


def _list(random: Random) -> tuple[str, str]:
    kind = random.choice(["language", "country", "country", "currency"])
    style, length = random.choice(["standard", "or"]), random.choice([2, 2, 3, 3, 4])
    english, chinese = zip(
        *(_name(kind, code) for code in random.sample(_names()[kind], length)), strict=True
    )
    return lists.format_list(english, style, ENGLISH), lists.format_list(chinese, style, CHINESE)


def _language(random: Random) -> tuple[str, str]:
    language = _name("language", random.choice(_names()["language"]))
    country = _name("country", random.choice(_names()["country"]))
    if random.random() < 0.2:
        return language
    return f"{language[0]} ({country[0]})", f"{language[1]}（{country[1]}）"  # CLDR's pattern; Babel lacks it


def _currency(random: Random) -> tuple[str, str]:
    return _name("currency", random.choice(_names()["currency"]))


def _country(random: Random) -> tuple[str, str]:
    return _name("country", random.choice(_names()["country"]))


def _unseen(random: Random) -> tuple[str, str]:
    return _name(*random.choice(_names()["unseen"]))


_MAKERS = {kind: globals()[f"_{kind}"] for kind in (*KINDS, "unseen")}


def _name(kind: str, code: str) -> tuple[str, str]:
    table = {"language": "languages", "country": "territories", "currency": "currencies"}[kind]
    return getattr(ENGLISH, table)[code], getattr(CHINESE, table)[code]


@functools.cache
def _names() -> dict[str, list]:
    """Codes of the names to use, by kind; under "unseen" the (kind, code) of those kept out."""
    money = {code for country in COUNTRIES for code in numbers.get_territory_currencies(country)}
    money = sorted(money & set(ENGLISH.currencies) & set(CHINESE.currencies))
    codes = {"language": LANGUAGES, "country": COUNTRIES, "currency": money}
    out = [(kind, code) for kind in codes for code in codes[kind] if split_of(f"{kind} {code}") == "test"]
    used = {kind: [code for code in codes[kind] if (kind, code) not in out] for kind in codes}
    words = " ".join(_name(kind, code)[0] for kind in used for code in used[kind]).split()
    # Singapore is not unseen: Singapore Dollar
    unseen = [(kind, code) for kind, code in out if _name(kind, code)[0] not in words]
    return used | {"unseen": unseen}


@functools.cache
def _units() -> list[tuple[str, str]]:
    """(code, length): some units Babel can write in Chinese characters only in their short form."""
    written = re.compile(r"2?[\u4e00-\u9fff]*2?[\u4e00-\u9fff]+")
    found = {}
    for code in UNITS:
        for length in ("short", "long"):
            if written.fullmatch(units.format_unit(2, code, length, locale=CHINESE)):
                found[code] = length
    return list(found.items())

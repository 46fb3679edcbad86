"""The page in a real browser: its four panels, the keyboard, stopping, errors, hostile text, dark, narrow."""

import re
import threading
import time

import keras
import numpy as np
import pytest

from companion import SubwordTokenizer, TextClassifier, WordVectors, transformer
from companion.applications import Translator

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="the extra serve is not installed")
serving = pytest.importorskip("companion.serving")

ENGLISH = ["one red house", "two green trees", "a small garden", "three red trees", "one small house"]
CHINESE = ["一座红房子", "两棵绿树", "一个小花园", "三棵红树", "一座小房子"]
SIZES = {"model_dim": 16, "num_heads": 2, "hidden_dim": 16, "dropout": 0.0}
HOSTILE = '<img src=x onerror="document.title=1"></textarea><script>document.title=1</script> & \u202e "'


class Echo:
    """Writes the prompt again and again, a piece at a time, as long as it may."""

    max_length = 201

    def __init__(self):
        self.may_write = threading.Event()
        self.may_write.set()
        self.written = 0

    def stream(self, prompt, max_new_tokens=40, temperature=1.0, top_p=1.0, seed=None):
        for i in range(max_new_tokens):
            assert self.may_write.wait(20)
            time.sleep(0.01)
            self.written += 1
            yield f" {i}:{prompt}"


@pytest.fixture(scope="module")
def applications(randomized):
    keras.utils.set_random_seed(0)
    source, target = (SubwordTokenizer.train(texts, 280) for texts in (ENGLISH, CHINESE))
    sizes = source.vocabulary_size, target.vocabulary_size
    model = randomized(transformer(*sizes, max_length=96, num_layers=1, **SIZES))
    classifier = TextClassifier("transformer", min_count=1, max_length=12, num_layers=1, **SIZES)
    classifier.fit(ENGLISH * 2, ["red", "green", "red", "red", "green"] * 2, epochs=1, progress=False)
    return {
        "translation": Translator(model, source, target, 90, 12),
        "classifier": classifier,
        "echo": Echo(),
        "vectors": WordVectors(["array", "list", "tree"], np.array([[1, 0], [1, 1], [0, 1]])),
    }


@pytest.fixture(scope="module")
def url(applications):
    with serving.running(serving.create_app(applications, max_length=200, timeout=300)) as url:
        yield url


@pytest.fixture
def page(browser_page, url):
    browser_page.set_default_timeout(60_000)
    browser_page.goto(url)
    browser_page.wait_for_selector("#loaded:not(:empty)")
    return browser_page


def submit(page, panel, **fields):
    for name, value in fields.items():
        page.fill(f"#{panel} [name={name}]", value)
    page.click(f"#{panel} button[type=submit]")
    page.wait_for_selector(f"#{panel} button[type=submit]:not([aria-disabled])")


def test_the_page_tells_what_is_loaded(page):
    assert "translation, classifier, echo, vectors" in page.text_content("#loaded")
    assert page.locator(".absent:visible").count() == 0 and page.locator("form:visible").count() == 4
    assert page.get_attribute("#translate textarea", "maxlength") == "200"
    assert page.get_attribute("[name=max_new_tokens]", "max") == "200"


def test_translating_shows_the_translation_and_beside_it_the_explorer(page, applications):
    submit(page, "translate", text="one red house")
    (expected,) = applications["translation"].translate(["one red house"])
    assert page.text_content("#translation") == (expected or "∅")
    frame = page.frame_locator("#translate iframe")
    frame.locator("#steps").wait_for()
    assert (
        page.evaluate("document.querySelector('iframe').contentDocument") is None
    )  # of an origin of its own
    left, right = (page.locator(f"#translate {part}").bounding_box() for part in ("form", "figure"))
    assert right["x"] >= left["x"] + left["width"] and right["height"] > 300


def test_classifying_shows_probabilities_and_what_they_rest_on(page, applications):
    submit(page, "classify", text="one red house")
    (row,) = applications["classifier"].predict_proba(["one red house"])
    label = applications["classifier"].predict(["one red house"])[0]
    shown = dict(zip(page.locator("#classify .name").all_text_contents(), row_values(page), strict=True))
    for name, probability in zip(["green", "red"], row, strict=True):
        assert shown[name] == pytest.approx(100 * probability, abs=0.051)
    assert page.text_content("#classify .chosen") == label
    tokens = page.locator("#classify .tokens li").all_text_contents()
    signed = r"([+−]\d\.\d\d|0)$"  # legible without color
    assert [re.sub(signed, "", token) for token in tokens] == ["one", "red", "house"]
    assert all(re.search(signed, token) for token in tokens)
    page.uncheck("[name=attributions]")
    submit(page, "classify")
    assert page.locator("#classify .tokens").count() == 0


def row_values(page):
    return [float(text.rstrip("%")) for text in page.locator("#classify .value").all_text_contents()]


def test_a_text_is_completed_piece_by_piece_and_stopped(page, applications):
    echo = applications["echo"]
    submit(page, "complete", prompt="x", max_new_tokens="3")
    assert page.text_content("#complete .answer") == "x 0:x 1:x 2:x"
    begun = echo.written
    page.fill("[name=max_new_tokens]", "200")
    page.click("#complete button[type=submit]")
    page.wait_for_selector("#complete .answer >> text=4:x")
    echo.may_write.clear()  # while the test looks at it
    assert page.get_attribute("#complete .answer", "aria-busy") == "true"
    page.click("#complete .stop")
    page.wait_for_selector("#complete .stop", state="hidden")
    written, stopped = page.text_content("#complete .answer"), echo.written
    time.sleep(0.3)
    echo.may_write.set()
    time.sleep(0.3)
    assert page.text_content("#complete .answer") == written and "4:x" in written
    assert page.text_content("#complete .error") == ""
    assert echo.written <= stopped + 1 < begun + 200


def test_similar_words_lead_to_others(page):
    submit(page, "similar", word="array")
    assert page.locator("#similar .word").all_text_contents() == ["list", "tree"]
    assert page.locator("#similar .value").all_text_contents() == ["0.71", "0.00"]
    page.click("#similar .word >> text=list")
    page.wait_for_selector("#similar li:first-child .word >> text=array")
    assert page.input_value("#similar-word") == "list"


def test_an_error_is_said_in_its_panel(page):
    submit(page, "similar", word="unheard-of")
    assert page.text_content("#similar .error") == "word must be one of the 3 known; received 'unheard-of'."
    assert [problem for problem in page.problems if "404" in problem]  # the browser's own line on it
    page.problems.clear()
    submit(page, "similar", word="array")
    assert page.text_content("#similar .error") == ""


def test_hostile_text_is_shown_and_never_run(page):
    title = page.title()
    submit(page, "complete", prompt=HOSTILE, max_new_tokens="1")
    assert page.text_content("#complete .answer") == f"{HOSTILE} 0:{HOSTILE}"
    submit(page, "classify", text=HOSTILE)
    submit(page, "translate", text=HOSTILE[:60])
    page.frame_locator("#translate iframe").locator("#steps").wait_for()
    assert page.locator("section img, section script").count() == 0 and page.title() == title


def test_everything_is_reached_by_keyboard_and_has_a_name(page):
    names, seen = [], 0
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
              const it = document.activeElement;
              if (it === document.body) return null;
              const style = getComputedStyle(it);
              return [it.tagName, it.labels?.[0]?.textContent || it.textContent, style.outlineStyle];
            }"""
        )
        if focused is None:
            break
        seen += 1
        names.append(focused[1].strip())
        assert focused[1].strip() and focused[2] != "none", focused
    assert seen >= 15 and "Skip to the models" in names[0]
    page.focus("#similar-word")
    page.keyboard.press("Enter")
    page.wait_for_selector("#similar .word")
    page.focus("#complete-prompt")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#complete .answer .prompt")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(page, scheme):
    page.emulate_media(color_scheme=scheme)
    submit(page, "classify", text="one red house")
    page.wait_for_timeout(400)
    lowest = page.evaluate(CONTRAST)
    assert lowest[0] >= 4.5, lowest
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")


# The least ratio of luminances between a text and the grounds below it, as WCAG 2.1 defines it.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = (color) => [.2126, .7152, .0722].reduce((sum, w, i) => sum + w * linear(color[i] / 255), 0);
  const over = (top, below) => below.map((c, i) => c + (top[3] ?? 1) * (top[i] - c));
  const back = (it) => parse(getComputedStyle(it).backgroundColor);
  const ground = (it) => it ? over(back(it), ground(it.parentElement)) : [255, 255, 255];
  let lowest = [99, ""];
  for (const it of document.querySelectorAll("body *")) {
    const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !it.checkVisibility() || it.closest(".skip")) continue;
    const below = ground(it), [a, b] = [light(over(parse(getComputedStyle(it).color), below)), light(below)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < lowest[0]) lowest = [ratio, `${it.tagName}.${it.className} ${it.textContent.slice(0, 40)}`];
  }
  return lowest;
}"""


@pytest.mark.parametrize("width", [320, 768, 1600])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    submit(page, "classify", text="one red house " * 12)
    submit(page, "translate", text="one red house")
    submit(page, "complete", prompt="x" * 150, max_new_tokens="2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_is_absent_is_told_in_both_languages(browser_page):
    vectors = WordVectors(["array", "list"], np.eye(2))
    with serving.running(serving.create_app({"vectors": vectors})) as url:
        browser_page.goto(url)
        browser_page.wait_for_selector("#translate .absent:visible")
        assert browser_page.locator("form:visible").count() == 1
        notes = browser_page.locator(".absent:visible").all_text_contents()
        chapters = ("03_2_translation", "05_2_repaired", "03_4_pretraining")
        for note, chapter in zip(notes, chapters, strict=True):
            assert f"run chapter {chapter}" in note and f"请先运行 chapters/{chapter}.ipynb" in note


def test_a_model_is_chosen_where_there_are_several(browser_page):
    vectors = {name: WordVectors(["array", name], np.eye(2)) for name in ("list", "tree")}
    with serving.running(serving.create_app(vectors)) as url:
        browser_page.goto(url)
        browser_page.wait_for_selector("#similar .model:visible")
        browser_page.select_option("#similar [name=model]", "tree")
        submit(browser_page, "similar", word="array")
        assert browser_page.text_content("#similar .word") == "tree"
        page_labels = browser_page.locator(".model:visible").count()
        assert page_labels == 1


def test_a_server_that_has_ended_is_told(browser_page):
    with serving.running(serving.create_app({"vectors": WordVectors(["array", "list"], np.eye(2))})) as url:
        browser_page.goto(url)
        browser_page.wait_for_selector("#translate .absent:visible")
    submit(browser_page, "similar", word="array")
    assert "is companion serve still running?" in browser_page.text_content("#similar .error")
    assert browser_page.problems
    browser_page.problems.clear()

"""The page and the JSON API: answers equal to the applications' own, limits, refusals, streams, headers."""

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import keras
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
from fastapi.testclient import TestClient

import companion
from companion import SubwordTokenizer, TextClassifier, WordVectors, gpt, transformer
from companion.applications import TextGenerator, Translator
from companion.serving import create_app, running, serve

ENGLISH = ["one red house", "two green trees", "a small garden", "three red trees", "one small house"]
CHINESE = ["一座红房子", "两棵绿树", "一个小花园", "三棵红树", "一座小房子"]
SIZES = {"model_dim": 16, "num_heads": 2, "hidden_dim": 16, "dropout": 0.0}
HERE = "http://127.0.0.1"
ROOT = Path(companion.__file__).parents[1]


@pytest.fixture(scope="module")
def applications(randomized):
    keras.utils.set_random_seed(0)
    source, target = (SubwordTokenizer.train(texts, 280) for texts in (ENGLISH, CHINESE))
    translation = transformer(
        source.vocabulary_size, target.vocabulary_size, max_length=24, num_layers=1, **SIZES
    )
    text = gpt(source.vocabulary_size, max_length=24, num_layers=1, **SIZES)
    classifier = TextClassifier("transformer", min_count=1, max_length=8, num_layers=1, **SIZES)
    classifier.fit(ENGLISH * 2, ["red", "green", "red", "red", "green"] * 2, epochs=1, progress=False)
    return {
        "translation": Translator(randomized(translation), source, target, 20, 12),
        "text": TextGenerator(randomized(text), source, 24),
        "classifier": classifier,
        "vectors": WordVectors(["red", "green", "tree"], np.array([[1, 0], [0, 1], [1, 1]])),
    }


@pytest.fixture(scope="module")
def client(applications):
    with TestClient(create_app(applications, max_length=100, timeout=300), base_url=HERE) as client:
        yield client


class Slow:
    """A translator that can be held, and fails for one text; a generator that writes until it is let go."""

    def __init__(self):
        self.gate, self.calls, self.written = threading.Event(), [], 0

    def translate(self, texts, beam_size=1):
        self.calls.append(list(texts))
        assert self.gate.wait(20)
        if "bad" in texts:
            raise ValueError("texts must be good; received 'bad'.")
        if "broken" in texts:
            raise RuntimeError("secret")
        return [text.upper() for text in texts]


class Endless:
    max_length = 10**6

    def __init__(self):
        self.written = 0

    def stream(self, prompt, max_new_tokens=40, **settings):
        for _ in range(max_new_tokens):
            time.sleep(0.01)
            self.written += 1
            yield f"{prompt} "


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def post(client, path, **fields):
    return client.post(f"/api/{path}", json=fields)


def message(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["status"] == status
    return error["message"]


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = [
        dict(line.split(": ", 1) for line in part.split("\n")) for part in response.text.split("\n\n")[:-1]
    ]
    return [(part.get("event", "message"), json.loads(part["data"])) for part in parts]


# Answers


@pytest.mark.parametrize("beam_size", [1, 2])
def test_translations_are_the_translators(client, applications, beam_size):
    answer = post(client, "translate", texts=ENGLISH, beam_size=beam_size).json()
    expected = applications["translation"].translate(ENGLISH, beam_size=beam_size)
    assert answer == {"model": "translation", "translations": expected} and len(set(expected)) > 1


def test_labels_and_probabilities_are_the_classifiers(client, applications):
    answer = post(client, "classify", texts=ENGLISH).json()
    rows, labels = (
        getattr(applications["classifier"], name)(ENGLISH) for name in ("predict_proba", "predict")
    )
    assert [result["label"] for result in answer["results"]] == labels
    for result, row in zip(answer["results"], rows, strict=True):
        assert list(result["probabilities"]) == ["green", "red"] and result["attributions"] is None
        np.testing.assert_allclose(list(result["probabilities"].values()), row, atol=1e-6)


def test_an_attribution_is_how_far_the_probability_falls(client, applications):
    (result,) = post(client, "classify", texts=["one red house"], attributions=True).json()["results"]
    assert [one["token"] for one in result["attributions"]] == ["one", "red", "house"]
    classifier = applications["classifier"]
    column = classifier.classes.index(result["label"])
    whole, *without = classifier.predict_proba(["one red house", "☃ red house", "one ☃ house", "one red ☃"])
    falls = [whole[column] - row[column] for row in without]
    np.testing.assert_allclose([one["score"] for one in result["attributions"]], falls, atol=1e-5)
    assert np.ptp(falls) > 1e-4
    tokenizer = classifier.tokenizer
    ids = tokenizer.encode_batch(["one red house"], length=classifier.max_length)
    scores = companion.occlusion(classifier.model, ids, column, tokenizer.unknown_id)[0]
    np.testing.assert_allclose(scores[:3], falls, atol=1e-5)


def test_a_long_text_is_explained_as_far_as_it_is_read(client):
    (result,) = post(client, "classify", texts=["red " * 20], attributions=True).json()["results"]
    assert [one["token"] for one in result["attributions"]] == ["red"] * 8


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_completions_are_the_generators_whole_and_in_pieces(client, applications, temperature):
    settings = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.9, "seed": 5}
    (expected,) = applications["text"].complete(["one red"], **settings)
    whole = post(client, "complete", prompt="one red", **settings).json()
    assert whole == {"model": "text", "completion": expected}
    *pieces, end = events(post(client, "complete", prompt="one red", stream=True, **settings))
    assert end == ("end", {}) and {kind for kind, _ in pieces} == {"message"}
    assert len(pieces) > 1 or temperature == 0  # some tokens in a row may be no whole character
    assert "".join(data["text"] for _, data in pieces) == expected


def test_similar_words_are_the_vectors(client, applications):
    answer = client.get("/api/similar", params={"word": "red", "count": 1}).json()
    assert answer["word"] == "red" and answer["similar"] == [
        {"word": "tree", "cosine": pytest.approx(0.5**0.5)}
    ]


def test_attention_is_a_page_that_can_do_nothing_but_show_itself(client, applications):
    response = client.get(
        "/api/attention", params={"text": "one <b>red</b> house", "translation": "一座红房子"}
    )
    assert response.status_code == 200 and response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert (
        policy.startswith("sandbox allow-scripts; default-src 'none'") and "frame-ancestors 'self'" in policy
    )
    from companion.explorer import attention_explorer

    found = applications["translation"].attention("one <b>red</b> house", "一座红房子")
    tokens, title = (found.source_tokens, found.target_tokens), "one <b>red</b> house"
    assert response.text == attention_explorer(found.weights, *tokens, title=title, view="steps").html


def test_models_and_health(client):
    answer = client.get("/api/models").json()
    tasks = {"translation": "translate", "text": "complete", "classifier": "classify", "vectors": "similar"}
    assert {model["name"]: model["task"] for model in answer["models"]} == tasks and not answer["absent"]
    assert answer["limits"] == {"max_length": 100, "max_texts": 16, "max_new_tokens": 23, "timeout": 300}
    health = client.get("/health").json()
    assert health == {"status": "ok", "version": companion.__version__, "waiting": 0}


def test_a_model_is_chosen_by_name():
    vectors = {name: WordVectors(["a", name], np.eye(2)) for name in ("b", "c")}
    with TestClient(create_app(vectors), base_url=HERE) as client:
        for model, nearest in (("b", "b"), ("c", "c")):
            answer = client.get("/api/similar", params={"word": "a", "model": model}).json()
            assert answer["model"] == model and answer["similar"][0]["word"] == nearest
        assert client.get("/api/similar?word=a").json()["model"] == "b"
        refused = client.get("/api/similar?word=a&model=d")
        assert message(refused, 404) == "model must be one of b, c; received 'd'."


def test_what_is_absent_is_told_with_its_chapter():
    with TestClient(create_app({}), base_url=HERE) as client:
        answers = {
            "03_2_translation": post(client, "translate", texts=["a"]),
            "05_2_repaired": post(client, "classify", texts=["a"]),
            "03_4_pretraining": post(client, "complete", prompt="a"),
            "02_1_word_vectors": client.get("/api/similar?word=a"),
        }
        told = {one["chapter"]: one["message"] for one in client.get("/api/models").json()["absent"]}
        for chapter, response in answers.items():
            assert f"run chapter {chapter}" in message(response, 404)
            assert told[chapter] == message(response, 404)
            assert (ROOT / "chapters" / f"{chapter}.ipynb").exists()


def test_what_is_no_application_is_refused():
    with pytest.raises(TypeError, match="an application must have one of translate.*received dict"):
        create_app({"x": {}})


@pytest.mark.parametrize("limits", [{"timeout": 0}, {"max_length": 0}, {"max_texts": 0}])
def test_limits_out_of_range_are_refused(limits):
    ((name, value),) = limits.items()
    with pytest.raises(ValueError, match=f"{name} must be .*received {name}={value}"):
        create_app({}, **limits)


# Refusals


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "texts must be given."),
        ({"texts": []}, "texts must have at least 1 item; received []."),
        ({"texts": ["a"] * 17}, "texts must have at most 16 items; received ["),
        ({"texts": "a"}, "texts must be a valid list; received 'a'."),
        ({"texts": ["a", 1]}, "texts[1] must be a valid string; received 1."),
        ({"texts": ["a" * 101]}, "texts[0] must have at most 100 characters; received 'aaa"),
        (
            {"texts": [" \n\u3000"]},
            "texts[0] must hold something to read, and no control characters; received",
        ),
        ({"texts": ["a\x00b"]}, "and no control characters; received 'a\\x00b'."),
        ({"texts": ["a\x1b[2J"]}, "and no control characters; received 'a\\x1b[2J'."),
        ({"texts": ["a"], "beam_size": 0}, "beam_size must be greater than or equal to 1; received 0."),
        ({"texts": ["a"], "beam_size": 5}, "beam_size must be less than or equal to 4; received 5."),
        ({"texts": ["a"], "beam_size": "2"}, "beam_size must be a valid integer; received '2'."),
        ({"texts": ["a"], "beam_size": True}, "beam_size must be a valid integer; received True."),
        ({"texts": ["a"], "bean_size": 2}, "bean_size is no field of this request."),
        (
            {"texts": ["one", "one red house " * 7]},
            "texts[1] must have at most max_source_length=20 tokens; received one",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_was_expected_and_what_came(client, fields, expected):
    assert expected in message(post(client, "translate", **fields), 422)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_new_tokens": 24}, "max_new_tokens must be less than or equal to 23; received 24."),
        ({"temperature": -1}, "temperature must be greater than or equal to 0; received -1."),
        ({"top_p": 0}, "top_p must be greater than 0; received 0."),
        ({"seed": 2**31}, f"seed must be less than {2**31}; received {2**31}."),
        ({"stream": "yes"}, "stream must be a valid boolean; received 'yes'."),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_is_refused_before_it_begins(client, fields, expected, stream):
    fields = {"prompt": "a", "stream": stream, **fields}
    assert expected in message(post(client, "complete", **fields), 422)


def test_an_unknown_word_is_not_found(client):
    assert (
        message(client.get("/api/similar?word=blue"), 404)
        == "word must be one of the 3 known; received 'blue'."
    )
    assert "count must be less" in message(client.get("/api/similar?word=red&count=101"), 422)
    assert "words is no field" in message(client.get("/api/similar?word=red&words=red"), 422)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "body must be given."),
        (b"{", "body must be JSON"),
        (b'{"texts": ["a"], "beam_size": NaN}', "NaN is no JSON number"),
        (b'{"texts": ["a"], "beam_size": -Infinity}', "-Infinity is no JSON number"),
        (b'{"texts": ["a"], "beam_size": 1e999}', "beam_size must be a valid integer; received inf."),
        (b'{"texts": ["a"], "beam_size": %s}' % (b"9" * 5000), "body must be JSON"),
        (b'{"texts": ["\xff"]}', "can't decode byte 0xff"),
        (b'{"texts": ["\\ud800"]}', "texts[0] must be a valid string"),
        (b'{"texts": ["a"], "\\ud800": 1}', "must be a valid string"),
        (b"[" * 9000, "body must be JSON"),
        (b"[]", "received []."),
    ],
)
def test_a_body_must_be_json_as_the_standard_has_it(client, body, expected):
    response = client.post("/api/translate", content=body, headers={"content-type": "application/json"})
    assert expected in message(response, 422)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_body_must_say_that_it_is_json(client, kind):
    response = client.post("/api/translate", content=b'{"texts": ["one"]}', headers={"content-type": kind})
    assert message(response, 415) == f"content-type must be application/json; received {kind!r}."
    kind = "Application/JSON; charset=utf-8"
    response = client.post("/api/translate", content=b'{"texts": ["one"]}', headers={"content-type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_must_not_be_large(client, chunked):
    most = client.app.state.service.max_body
    for size, status in ((most, 422), (most + 1, 413)):
        body = iter([b" " * (size - 10), b" " * 10]) if chunked else b" " * size
        headers = {"content-type": "application/json"}
        said = message(client.post("/api/translate", content=body, headers=headers), status)
    assert said.startswith(f"A body must have at most {most} bytes; received {most + 1}")


def test_the_largest_request_that_is_described_fits(client):
    body = json.dumps({"texts": ["😀" * 100] * 16, "beam_size": 1, "model": "x"})
    response = client.post("/api/translate", content=body, headers={"content-type": "application/json"})
    assert message(response, 404) == "model must be one of translation; received 'x'."


def test_another_host_is_refused(client, applications):
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", ""):
        said = message(client.get("/health", headers={"host": host}), 400)
        assert said == f"Host must be one of 127.0.0.1, [::1], localhost; received {host!r}."
    named = "127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "[::1]"
    for host in (*named, "127.0.0.2", "192.168.1.5:8000"):  # no other site has an address for a name
        assert client.get("/health", headers={"host": host}).status_code == 200
    with TestClient(create_app({}, hosts=None), base_url="http://any.example") as open_client:
        assert open_client.get("/health").status_code == 200


def test_other_paths_and_methods(client):
    assert message(client.get("/docs"), 404) == "Not Found: GET /docs"
    assert "Not Found" in message(client.get("/../pyproject.toml"), 404)
    refused = client.get("/api/translate")
    assert "Method Not Allowed" in message(refused, 405) and refused.headers["allow"] == "POST"


def test_another_site_is_answered_only_if_it_is_allowed(client):
    origin = {"origin": "http://a.example", "access-control-request-method": "POST"}
    assert client.options("/api/translate", headers=origin).status_code == 405
    assert "access-control-allow-origin" not in client.get("/health", headers=origin).headers
    with TestClient(create_app({}, allow_origin=["http://a.example"]), base_url=HERE) as other:
        asked = {**origin, "access-control-request-headers": "content-type"}
        allowed = other.options("/api/translate", headers=asked)
        assert allowed.status_code == 200 and "POST" in allowed.headers["access-control-allow-methods"]
        assert (
            other.get("/health", headers=origin).headers["access-control-allow-origin"] == "http://a.example"
        )
        asked["origin"] = "http://b.example"
        assert "access-control-allow-origin" not in other.options("/api/translate", headers=asked).headers


# The page and the description


def test_every_answer_has_its_security_headers(client):
    paths = ("/", "/page.js", "/health", "/nowhere", "/openapi.json")
    answers = [client.get(path) for path in paths] + [client.get("/", headers={"host": "x"})]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )


def test_the_page_is_of_this_package_alone(client):
    page, style, script = (client.get(path) for path in ("/", "/page.css", "/page.js"))
    kinds = [answer.headers["content-type"] for answer in (page, style, script)]
    assert kinds == [f"text/{kind}; charset=utf-8" for kind in ("html", "css", "javascript")]
    whole = (page.text + style.text + script.text).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", whole)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=", whole)
    assert not re.search(r"<script(?! src)|<style|\sstyle=", page.text)
    assert set(re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', page.text)) == {
        "page.css",
        "page.js",
        "openapi.json",
    }
    labels = re.findall(r"<label[^>]*>(.*?)</label>", page.text, re.DOTALL)
    assert len(labels) > 10 and all(re.search("[\u4e00-\u9fff]", label) for label in labels)


def test_the_description_has_examples_and_every_error(client):
    described = client.get("/openapi.json").json()
    assert described["info"] == {**described["info"], "title": "companion", "version": companion.__version__}
    paths = ("translate", "attention", "classify", "complete", "similar", "models")
    assert set(described["paths"]) == {"/health", *(f"/api/{path}" for path in paths)}
    for path in paths[:-1]:
        (operation,) = described["paths"][f"/api/{path}"].values()
        assert {*operation["responses"]} == {
            "200",
            "400",
            "404",
            "408",
            "413",
            "415",
            "422",
            "500",
            "503",
            "504",
        }
        for status in ("503", "504"):
            assert "Retry-After" in operation["responses"][status]["headers"]
    schemas = described["components"]["schemas"]
    assert schemas["Translate"]["properties"]["texts"]["items"]["maxLength"] == 100
    assert all(
        schemas[name]["additionalProperties"] is False for name in ("Translate", "Classify", "Complete")
    )
    assert schemas["Complete"]["properties"]["prompt"]["examples"]


# Many at once


def test_requests_that_come_together_are_computed_together_and_a_bad_one_fails_alone():
    slow = Slow()
    texts = [f"text {i}" for i in range(9)] + ["bad"]
    with TestClient(create_app({"slow": slow}), base_url=HERE) as client, ThreadPoolExecutor(12) as pool:
        first = pool.submit(post, client, "translate", texts=["first"])
        until(lambda: slow.calls)
        rest = [pool.submit(post, client, "translate", texts=[text]) for text in texts]
        until(lambda: client.get("/health").json()["waiting"] == len(texts))
        slow.gate.set()
        *good, bad = (future.result() for future in rest)
        assert [answer.json()["translations"] for answer in good] == [[text.upper()] for text in texts[:-1]]
        assert message(bad, 422) == "texts must be good; received 'bad'."
        assert first.result().json()["translations"] == ["FIRST"]
    assert sorted(slow.calls[1]) == sorted(texts) and all(len(call) == 1 for call in slow.calls[2:])


def test_answers_are_the_same_among_others(client, applications):
    alone = applications["translation"].translate(ENGLISH)
    with ThreadPoolExecutor(10) as pool:
        work = [pool.submit(post, client, "translate", texts=[text]) for text in ENGLISH * 3]
        together = [future.result().json()["translations"] for future in work]
    assert together == [[text] for text in alone] * 3


def test_too_much_at_once_is_refused_for_now():
    slow = Slow()
    app = create_app({"slow": slow}, max_waiting=16)
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, client, "translate", texts=["a"])
        until(lambda: slow.calls)
        waiting = pool.submit(post, client, "translate", texts=["b"] * 10)
        until(lambda: client.get("/health").json()["waiting"] == 10)
        refused = post(client, "translate", texts=["c"] * 7)
        assert message(refused, 503) == "10 texts are waiting, at most 16 may; try again soon."
        assert int(refused.headers["retry-after"]) > 0
        slow.gate.set()
        assert first.result().status_code == waiting.result().status_code == 200


def test_an_answer_that_takes_too_long_is_given_up():
    slow = Slow()
    with TestClient(create_app({"slow": slow}, timeout=0.05), base_url=HERE) as client:
        late = post(client, "translate", texts=["a"])
        assert message(late, 504) == "The answer took more than 0.05 seconds."
        assert int(late.headers["retry-after"]) > 0
        slow.gate.set()
        until(lambda: post(client, "translate", texts=["b"]).status_code == 200)


def test_a_fault_is_logged_and_not_told(caplog):
    slow = Slow()
    slow.gate.set()
    with TestClient(create_app({"slow": slow}), base_url=HERE) as client:
        said = message(post(client, "translate", texts=["broken"]), 500)
        assert "secret" not in said and "secret" in caplog.text
        assert post(client, "translate", texts=["a"]).status_code == 200


def test_completions_under_way_are_few_and_let_others_pass():
    endless, slow = Endless(), Slow()
    slow.gate.set()
    app = create_app({"endless": endless, "slow": slow}, max_streams=1, max_new_tokens=10**5)
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        body = {"prompt": "a", "max_new_tokens": 10**5, "stream": True}
        with client.stream("POST", "/api/complete", json=body) as response:
            lines = response.iter_lines()
            assert next(lines) == 'data: {"text": "a "}'
            refused = post(client, "complete", prompt="b")
            assert message(refused, 503) == "At most 1 completions may be under way."
            assert post(client, "translate", texts=["x"]).json()["translations"] == ["X"]
            assert endless.written < 10**5  # the others did not wait for the end
        until(lambda: app.state.service.streams == 0)  # the client has left
        written = endless.written
        assert post(client, "translate", texts=["y"]).status_code == 200
        time.sleep(0.1)
        assert endless.written <= written + 1
        assert post(client, "complete", prompt="c", max_new_tokens=2).json()["completion"] == "c c "


def test_a_client_that_leaves_takes_its_texts_along():
    slow = Slow()
    app = create_app({"slow": slow})
    with running(app) as url, ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, timeout=10) as client:
        first = pool.submit(post, client, "translate", texts=["first"])
        until(lambda: slow.calls)
        body, (host, _, port) = b'{"texts": ["gone"]}', url.removeprefix("http://").partition(":")
        head = f"Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(f"POST /api/translate HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
            until(lambda: app.state.service.worker.waiting == 1)
        until(lambda: app.state.service.worker.waiting == 0)
        slow.gate.set()
        assert first.result().status_code == 200
        assert post(client, "translate", texts=["last"]).status_code == 200
    assert slow.calls == [["first"], ["last"]]


@pytest.mark.parametrize(("error", "status"), [(ValueError, 422), (RuntimeError, 500)])
def test_a_stream_that_breaks_says_so(error, status):
    class Breaks:
        max_length = 64

        def stream(self, prompt, **settings):
            yield "one"
            raise error("no more words")

    with TestClient(create_app({"breaks": Breaks()}), base_url=HERE) as client:
        first, (kind, said) = events(post(client, "complete", prompt="a", stream=True))
        assert first == ("message", {"text": "one"})
        assert kind == "error" and said["error"]["status"] == status
        assert (said["error"]["message"] == "no more words") == (status == 422)


def test_the_timeout_is_of_a_whole_completion():
    endless = Endless()
    app = create_app({"endless": endless}, max_new_tokens=10**5, timeout=0.3)
    with TestClient(app, base_url=HERE) as client:
        late = post(client, "complete", prompt="a", max_new_tokens=10**5)
        assert message(late, 504) == "The answer took more than 0.3 seconds."
        assert endless.written < 10**5


def test_a_model_with_little_room_completes_by_default():
    class Short(Endless):
        max_length = 4

    with TestClient(create_app({"short": Short(), "long": Endless()}), base_url=HERE) as client:
        assert post(client, "complete", prompt="a", model="short").json()["completion"] == "a a a "


# The command


def test_serve_opens_the_models_of_a_folder_and_ends_when_it_is_interrupted(applications, tmp_path):
    for name in ("classifier", "text"):
        applications[name].save(tmp_path / name)
    program = (
        "import argparse, json, sys, companion; assert not {'fastapi', 'uvicorn'} & {*sys.modules};"
        "from companion.serving import serve;"
        "sys.exit(serve(argparse.Namespace(**json.loads(sys.argv[1]))))"
    )
    options = {"model": str(tmp_path), "host": "127.0.0.1", "port": 0, "allow_origin": [], "max_length": 50}
    command = [sys.executable, "-c", program, json.dumps(options | {"timeout": 120.0})]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            said = [server.stdout.readline() for _ in range(3)]
            assert said[:2] == ["classifier: text classifier\n", "text: text generator\n"]
            url = re.search(r"http://127\.0\.0\.1:\d+", said[2])[0]
            until(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200)
            answer = httpx.post(f"{url}/api/classify", json={"texts": ENGLISH}, timeout=150).json()
            labels = [result["label"] for result in answer["results"]]
            assert labels == applications["classifier"].predict(ENGLISH)
            assert (
                httpx.post(f"{url}/api/classify", json={"texts": ["a" * 51]}, timeout=60).status_code == 422
            )
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0 and "Traceback" not in server.stderr.read()


def test_a_port_that_is_taken_and_a_model_that_is_absent_are_errors(tmp_path):
    options = {"host": "127.0.0.1", "allow_origin": [], "max_length": 50, "timeout": 5.0}
    with running(create_app({})) as url, pytest.raises(OSError, match="in use"):
        serve(argparse.Namespace(model=str(tmp_path), port=int(url.rpartition(":")[2]), **options))
    with pytest.raises(ValueError, match="port must be at most 65535; received port=70000"):
        serve(argparse.Namespace(model=str(tmp_path), port=70000, **options))
    with pytest.raises(ValueError, match="port must be at least 0; received port=-1"):
        serve(argparse.Namespace(model=str(tmp_path), port=-1, **options))

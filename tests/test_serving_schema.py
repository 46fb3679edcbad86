"""The API does what its OpenAPI description says, whatever it is sent: schemathesis asks a running server."""

from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest

from companion import WordVectors

schemathesis = pytest.importorskip("schemathesis", reason="the extra test is not installed")
for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason="the extra serve is not installed")
serving = pytest.importorskip("companion.serving")

OPERATIONS = 7


class Translator:
    def translate(self, texts, beam_size=1):
        return [text[::-1] for text in texts]

    def attention(self, text, translation=None):
        tokens = list(text[:8])
        weights = np.full((1, 2, 2, len(tokens)), 1 / len(tokens), "float32")
        return SimpleNamespace(weights=weights, source_tokens=tokens, target_tokens=["a", "b"])


class Generator:
    max_length = 64

    def stream(self, prompt, max_new_tokens=40, temperature=1.0, top_p=1.0, seed=None):
        yield from prompt[:max_new_tokens]


class Classifier:
    classes = ["bad", "good"]

    def predict_proba(self, texts):
        return np.array([[len(text) / 1000, 1 - len(text) / 1000] for text in texts])

    def decide(self, rows):
        return [self.classes[int(row[1] > 0.5)] for row in rows]


app = serving.create_app(
    {
        "translator": Translator(),
        "generator": Generator(),
        "classifier": Classifier(),
        "vectors": WordVectors(["list", "tree"], np.eye(2)),
    }
)
schema = schemathesis.openapi.from_dict(app.openapi())
called = []


@pytest.fixture(scope="module")
def url():
    with serving.running(app) as url:
        yield url


@pytest.fixture(autouse=True)
def attributions(monkeypatch):
    """Of a model that is none nothing can be explained; test_serving.py explains a real one."""
    monkeypatch.setattr("companion.endpoints.attributions", lambda classifier, text: [(text[:5], 0.5)])


PLAIN = {"GET /health", "GET /api/models"}


@pytest.fixture(autouse=True)
def answered_and_refused():
    """Looked at after each operation: the next one may be tested by another process."""
    called.clear()
    yield
    if called:
        (operation,), statuses = {name for name, _ in called}, {status for _, status in called}
        assert 200 in statuses and max(statuses) < 500
        assert operation in PLAIN or statuses & {415, 422}


@schema.parametrize()
@hypothesis.settings(max_examples=25, derandomize=True, deadline=None, database=None)
def test_every_answer_is_described(case, url):
    response = case.call_and_validate(base_url=url, timeout=10)
    called.append((case.operation.label, response.status_code))


def test_every_operation_is_asked():
    assert sum(map(len, app.openapi()["paths"].values())) == OPERATIONS

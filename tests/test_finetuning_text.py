"""Fine-tuning from text: prefixed pairs for T5, batches whose number nobody knows before."""

import numpy as np
import pytest
import tensorflow as tf

from companion import bert, generate, t5
from companion.data import sequence_batches, text_batches
from companion.finetuning import fine_tune
from companion.heads import classifier
from companion.text import WordTokenizer

WORDS = {"red": "rot", "blue": "blau", "green": "gelb", "one": "eins", "two": "zwei", "six": "sechs"}
PAIRS = [(f"translate : {word}", answer) for word, answer in WORDS.items()]
PAIRS += [(f"repeat : {word}", word) for word in WORDS]


def test_t5_learns_prefixed_pairs_and_generates_their_answers():
    tokenizer = WordTokenizer.train([text for pair in PAIRS for text in pair], min_count=1)
    sources = [tokenizer.encode(source) for source, _ in PAIRS]
    targets = [tokenizer.encode(target, begin=True, end=True) for _, target in PAIRS]
    train = sequence_batches(sources * 40, targets * 40, 32, boundaries=(4, 8))
    validation = sequence_batches(sources, targets, 32, boundaries=(4, 8))
    model = t5(tokenizer.vocabulary_size, 32, 2, 64, 1, dropout=0.0)
    history = fine_tune(model, train, validation, 0.01, epochs=10, patience=10, verbose=0)
    assert min(history["val_loss"]) < 0.1
    written = generate(model, sources, max_length=4, begin_id=tokenizer.begin_id, end_id=tokenizer.end_id)
    right = [tokenizer.decode(ids) == target for ids, (_, target) in zip(written, PAIRS, strict=True)]
    assert np.mean(right) > 0.9


def test_batches_of_unknown_number_are_counted_and_endless_ones_refused():
    tokens = [[3, 4, 5][: 1 + i % 3] for i in range(64)]
    batches = text_batches(tokens, [i % 2 for i in range(64)], 16, boundaries=(2, 4))
    count = sum(1 for _ in batches)

    def named(tokens, labels):
        return {"tokens": tokens, "segments": tf.zeros_like(tokens)}, labels

    model = classifier(bert(12, 8, 8, 2, 16, 1), 2)
    fine_tune(model, batches.map(named), batches.map(named), 0.01, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 2 * count
    assert model.optimizer._learning_rate.total_steps == 2 * count
    with pytest.raises(ValueError, match="train must end; received batches without an end"):
        fine_tune(model, batches.map(named).repeat(), batches.map(named), 0.01)

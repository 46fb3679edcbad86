"""Chapter 03_2 for several seeds: English to Chinese by a Transformer, by an LSTM and word by word.

    python benchmarks/translation.py [--seeds 3]

Data, split, sizes, steps and schedule are the chapter's, which takes 700 of the 1,000 test pairs; a seed
draws the weights and the order of the batches, the same for both networks. The Transformer keeps the
chapter's learning rate; the LSTM's is chosen among RATES by the loss on the validation pairs, with seed 0. A
training takes one to two minutes on two cores; with 3 seeds there are 9 of them: 10 to 15 minutes in all.
"""

import argparse
from collections import Counter

import keras
import numpy as np

from companion import SubwordTokenizer, WordTokenizer, evaluation, generate, lstm_seq2seq, transformer
from companion.data import sequence_batches, split, translation_pairs

BOUNDARIES, BATCH, STEPS, LONGEST = (12, 20, 48), 64, 700, 24
SIZES = {"model_dim": 96, "num_heads": 4, "hidden_dim": 384, "num_layers": 2, "dropout": 0.0}
RATE, RATES = 3e-3, (1e-3, 3e-3, 1e-2, 3e-2)


def word_by_word(train, test):
    """Each word becomes the one it shares most of 10,000 training pairs with (Dice coefficient)."""
    words_en = WordTokenizer.train(["x"], "en", lowercase=False)
    words_zh = WordTokenizer.train(["x"], "zh", segmenter="jieba")
    together, alone_en, alone_zh = Counter(), Counter(), Counter()
    for pair in train[:10_000]:
        left, right = set(words_en.split(pair.source)), set(words_zh.split(pair.target))
        alone_en.update(left)
        alone_zh.update(right)
        together.update((one, other) for one in left for other in right)
    best = {}
    for (one, other), count in together.items():
        dice = 2 * count / (alone_en[one] + alone_zh[other])
        best[one] = max(best.get(one, (0, "")), (dice, other))
    return ["".join(best.get(word, (0, word))[1] for word in words_en.split(pair.source)) for pair in test]


class Experiment:
    """The chapter's data and tokenizers, and what is done with them."""

    def __init__(self):
        pairs = translation_pairs(40_000, seed=0)
        self.train, self.validation, test = split(pairs, key="target")
        self.test = test[:1000]
        sizes = {"vocabulary_size": 1000, "split_digits": True}
        self.english = SubwordTokenizer.train([pair.source for pair in self.train], **sizes)
        self.chinese = SubwordTokenizer.train([pair.target for pair in self.train], **sizes)
        self.train_tokens, self.validation_tokens = map(self.tokens, (self.train, self.validation))

    def tokens(self, pairs):
        """Lists of source ids and of target ids."""
        sources = [self.english.encode(pair.source) for pair in pairs]
        return sources, [self.chinese.encode(pair.target, begin=True, end=True) for pair in pairs]

    def trained(self, name, seed, rate):
        """A new network after STEPS steps."""
        print(f"\n{name}, seed {seed}, learning rate {rate:g}", flush=True)
        keras.utils.set_random_seed(seed)
        vocabularies = self.english.vocabulary_size, self.chinese.vocabulary_size
        if name == "Transformer":
            model = transformer(*vocabularies, max_length=48, **SIZES)
        else:
            model = lstm_seq2seq(*vocabularies, model_dim=96, hidden_dim=188, dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(rate), loss, jit_compile=False)
        batches = sequence_batches(*self.train_tokens, BATCH, BOUNDARIES, seed=seed, drop_remainder=True)
        model.fit(batches.repeat(), epochs=STEPS // 100, steps_per_epoch=100, shuffle=False, verbose=2)
        return model

    def validation_loss(self, model):
        """Mean cross-entropy on the validation pairs."""
        batches = sequence_batches(*self.validation_tokens, BATCH, BOUNDARIES, shuffle=False)
        steps = sum(1 for _ in batches)  # not told their number, Keras warns that the data ran out
        return model.evaluate(batches, steps=steps, verbose=0)

    def exact_match(self, model):
        """Share of the test pairs whose greedy translation is right to the character."""
        source_tokens = self.english.encode_batch([pair.source for pair in self.test], length=BOUNDARIES[-1])
        written = generate(model, source_tokens, max_length=LONGEST, use_cache=model.name == "transformer")
        return evaluation.exact_match([pair.target for pair in self.test], self.chinese.decode_batch(written))


def optimizer(rate):
    """Adam; the rate rises for a tenth of the steps, then falls along a cosine to zero."""
    warmup = STEPS // 10
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, STEPS - warmup, warmup_target=rate, warmup_steps=warmup
    )
    return keras.optimizers.Adam(schedule, beta_2=0.98, global_clipnorm=1.0)


def best_lstm_rate(experiment):
    """The rate in RATES with the lowest validation loss, and the exact match that it reached, with seed 0."""
    tried = {}
    for rate in RATES:
        model = experiment.trained("LSTM", 0, rate)
        tried[rate] = experiment.validation_loss(model), experiment.exact_match(model)
        print(f"validation loss {tried[rate][0]:.3f}, exact match on test {tried[rate][1]:.3f}", flush=True)
    best = min(tried, key=tried.get)
    return best, tried[best][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    experiment = Experiment()
    references = [pair.target for pair in experiment.test]
    dictionary = evaluation.exact_match(references, word_by_word(experiment.train, experiment.test))
    transformers = [experiment.exact_match(experiment.trained("Transformer", seed, RATE)) for seed in seeds]
    rate, first = best_lstm_rate(experiment)
    lstms = [first, *(experiment.exact_match(experiment.trained("LSTM", seed, rate)) for seed in seeds[1:])]
    print(f"\nExact match on {len(references)} held-out pairs, mean ± sd (ddof=1) over {len(seeds)} seeds")
    print(f"{'word by word':24} {dictionary:.3f}")
    for name, scores in ((f"Transformer, rate {RATE:g}", transformers), (f"LSTM, rate {rate:g}", lstms)):
        spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
        print(f"{name:24} {np.mean(scores):.3f}{spread}   seeds: {', '.join(f'{x:.3f}' for x in scores)}")


if __name__ == "__main__":
    main()

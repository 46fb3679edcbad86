"""Section 6 of the article: each test proves one erratum of data/errata/06.json."""

import re
from collections import Counter
from pathlib import Path

import keras
import numpy as np

from companion import SubwordTokenizer, WordTokenizer, generate, gpt
from companion.captioning import captioner
from companion.conversations import Turn, read_dialogues
from companion.dialogue import Assistant, eliza_reply, reply_passages, weights_hash
from companion.evaluation import exact_match
from companion.library import eliza
from companion.melody import Note, encode, transposed, write_note
from companion.scenes import color_shape_pairs, draw_scenes
from companion.stories import answer_match, read_stories, sentences

ROOT = Path(__file__).resolve().parents[1]


def test_e29_a_chat_changes_no_weight():
    """Line 352: by talking with users the model can keep learning. Only training changes its weights."""
    assistant = Assistant(reply_passages(read_dialogues(ROOT / "data" / "dialogues.jsonl")))
    model = gpt(40, 16, model_dim=8, num_heads=2, hidden_dim=16, num_layers=1)
    tokens = np.arange(5, 17)[None]
    before, history = (weights_hash(assistant), weights_hash(model)), ()
    for text in ("My name is Mei.", "How do I sort a list?", "What is my name?"):
        history += (Turn("user", text),)
        history += (Turn("assistant", assistant.reply(history).text),)
        np.argmax(model(tokens[:, : len(history) + 5]), axis=-1)  # the network chats, too
    assert (weights_hash(assistant), weights_hash(model)) == before
    question = history[-2:-1]
    assert np.abs(assistant.similarities(history[:-1]) - assistant.similarities(question)).max() > 0.01

    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.train_on_batch(tokens[:, :-1], tokens[:, 1:])
    assert weights_hash(model) != before[1]


def test_e30_who_always_answers_is_wrong_where_there_is_no_answer():
    """A reader that gives the sentence likest the question invents an answer to each that has none; how like
    it is tells something, so a reader that may refuse is wrong on fewer."""

    def words(text):
        return set(re.findall(r"\w+|[\u4e00-\u9fff]", text.lower()))

    told = read_stories(ROOT / "data" / "stories.jsonl")
    told = [(story, *asked) for story in told for asked in story.questions]
    said, like = [], []
    for story, asked, _ in told:
        shares = [len(words(asked) & words(text)) / len(words(asked)) for text in sentences(story.text)]
        said.append(sentences(story.text)[int(np.argmax(shares))])
        like.append(max(shares))
    said, gold, like = np.array(said), np.array([answer for *_, answer in told]), np.array(like)
    empty = gold == ""
    assert empty.sum() == 60
    assert answer_match(gold[empty].tolist(), said[empty].tolist()) == 0
    # knowing every other answer does not help
    assert answer_match(gold.tolist(), np.where(empty, said, gold).tolist()) == 0.8
    refused = like < np.median(like)
    assert answer_match(gold[empty].tolist(), np.where(refused, "", said)[empty].tolist()) > 0.4
    assert refused[empty].mean() > refused[~empty].mean() + 0.1


def test_e31_a_model_of_text_gives_all_pictures_one_caption():
    """A decoder of words alone has no input for a picture, so its likeliest caption is the same for all."""
    scenes = draw_scenes(500, color_shape_pairs()["train"], seed=1)
    captions = [scene.english for scene in scenes]
    tokenizer, sizes = WordTokenizer.train(captions), {"model_dim": 16, "num_heads": 2, "hidden_dim": 32}
    text_only = gpt(tokenizer.vocabulary_size, 12, **sizes, num_layers=1)
    assert [x.name for x in text_only.inputs] == ["tokens"]  # there is no way in for a picture
    written = tokenizer.decode_batch(generate(text_only, [[]] * 500, max_length=11, tokenizer=tokenizer))
    best = Counter(captions).most_common(1)[0][1] / 500
    assert len(set(written)) == 1 and exact_match(captions, written) <= best < 0.03
    model = captioner(tokenizer.vocabulary_size, 12, **sizes, num_layers=1)
    pixels = np.stack([scene.image.ravel() for scene in scenes[:2]]).astype("int32")
    one, other = np.asarray(model([pixels, np.full((2, 1), tokenizer.begin_id)]))
    assert np.abs(one - other).max() > 1e-3


def test_e31_music_has_tokens_of_its_own():
    """A melody in another key is another text, of another length; as events the same, shifted."""
    words = SubwordTokenizer.train(["a melody is a sequence, and a language model continues sequences"], 280)
    scale = [Note(pitch, 1.0) for pitch in (60, 62, 64, 65, 67, 69, 71, 72)]
    keys = [transposed(scale, key) for key in range(12)]
    as_text = {len(words.encode(" ".join(map(write_note, notes)))) for notes in keys}
    as_events = [encode(notes) for notes in keys]
    assert len(as_text) > 1 and min(as_text) > 16 and {len(tokens) for tokens in as_events} == {17}
    for key, tokens in enumerate(as_events):
        assert [b - a for a, b in zip(as_events[0], tokens, strict=True)] == [key, 0] * 8 + [0]


def test_e32_present_and_future_exchanged():
    """Customer service is an application of today in 6.1 and 6.2 and of the future in 6.4."""
    today = ("如搜索引擎的问答模块、客户服务机器人等", "如智能聊天机器人")  # lines 340, 352
    future = "大语言模型可以进一步提升智能客服系统的交互质量"  # line 364: it improves what is there
    assert "客户服务机器人" in today[0] and "聊天机器人" in today[1] and "进一步提升" in future
    assert "your order" in eliza_reply("I need my order", eliza())  # a program of 1966 converses
    assistant = Assistant(reply_passages(read_dialogues(ROOT / "data" / "dialogues.jsonl")))
    served = assistant.reply((Turn("user", "How do I remove a package again?"),))
    assert "pip uninstall" in served.text and not served.abstained

"""Runs that are interrupted and go on, damaged checkpoints, and what is printed and logged on the way."""

import re
import shutil

import keras
import numpy as np
import pytest

from companion.models import gpt
from companion.pretraining import Pretrainer, WarmupCosine
from companion.training import Checkpoint, Progress

B, T, STEPS = 2, 6, 6
TOKENS = np.random.default_rng(0).integers(1, 20, (B * STEPS, T + 1))
on_every_backend = pytest.mark.backend


def made(seed=0, steps_per_execution=1, rate=None, **optimizer):
    """A run's beginning: weights and dropout are those of the seed."""
    keras.utils.set_random_seed(seed)
    dropout = 0.0 if keras.backend.backend() == "torch" else 0.3  # there it draws from a global generator
    trainer = Pretrainer(gpt(20, T, model_dim=4, num_heads=2, hidden_dim=8, num_layers=1, dropout=dropout))
    rate = WarmupCosine(0.05, 2, STEPS) if rate is None else rate
    jit = keras.backend.backend() == "jax"
    trainer.compile(
        keras.optimizers.Adam(rate, **optimizer), jit_compile=jit, steps_per_execution=steps_per_execution
    )
    return trainer


def train(trainer, start=0, stop=STEPS, callbacks=(), **settings):
    tokens = TOKENS[start * B : stop * B]
    return trainer.fit(
        *(tokens[:, :-1], tokens[:, 1:]),
        **{"batch_size": B, "shuffle": False, "verbose": 0, "callbacks": list(callbacks), **settings},
    ).history


def state(trainer):
    return [np.array(x) for x in (*trainer.variables, *trainer.optimizer.variables)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Stop(keras.callbacks.Callback):
    """Interrupts training after a batch."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            raise KeyboardInterrupt


# Going on


@on_every_backend
@pytest.mark.parametrize("accumulated", [None, 2])
def test_a_run_interrupted_after_any_step_ends_as_if_it_had_not_been(tmp_path, accumulated):
    settings = {"global_clipnorm": 0.5, "gradient_accumulation_steps": accumulated}
    whole = made(**settings)
    train(whole, callbacks=[Checkpoint(tmp_path / "run", every=1, keep=STEPS)])
    assert names(tmp_path / "run") == [f"step-{n:08d}" for n in range(1, STEPS + 1)]
    trainer = made(seed=1, **settings)
    for steps in range(STEPS - 1, 0, -1):
        shutil.rmtree(tmp_path / "run" / f"step-{steps + 1:08d}")
        assert Checkpoint(tmp_path / "run", every=100).resume(trainer) == steps
        train(trainer, start=steps)
        for one, other in zip(state(trainer), state(whole), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@on_every_backend
def test_an_interrupted_run_goes_on_in_a_new_model(tmp_path):
    whole = made()
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(made(), callbacks=[Checkpoint(tmp_path, every=2), Stop(4)])
    trainer, checkpoint = made(seed=1), Checkpoint(tmp_path, every=2)
    different = state(trainer)
    assert checkpoint.resume(trainer) == 4
    assert any((one != other).any() for one, other in zip(different, state(trainer), strict=False))
    train(trainer, start=4, callbacks=[checkpoint])
    assert checkpoint.step == STEPS and names(tmp_path) == ["step-00000004", "step-00000006"]
    for one, other in zip(state(trainer), state(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_dropout_draws_goes_on_too(tmp_path):
    trainer = made()
    train(trainer, stop=2, callbacks=[Checkpoint(tmp_path, every=2)])
    seeds = [x for x in trainer.variables if "seed_generator" in x.path]
    drawn = [np.array(x) for x in seeds]
    assert seeds and all(x.any() for x in drawn)
    other = made(seed=1)
    Checkpoint(tmp_path, every=2).resume(other)
    restored = [np.array(x) for x in other.variables if "seed_generator" in x.path]
    np.testing.assert_array_equal(restored, drawn)


def test_steps_are_counted_over_epochs_and_fits_and_the_end_is_kept(tmp_path):
    trainer, checkpoint = made(), Checkpoint(tmp_path, every=4)
    train(trainer, stop=3, callbacks=[checkpoint], epochs=3)
    assert checkpoint.step == 9 and names(tmp_path) == ["step-00000008", "step-00000009"]
    train(trainer, stop=3, callbacks=[checkpoint])
    assert checkpoint.step == 12 and names(tmp_path) == ["step-00000009", "step-00000012"]
    again = Checkpoint(tmp_path, every=4)
    assert again.resume(trainer) == 12
    train(trainer, stop=1, callbacks=[again])
    assert names(tmp_path) == ["step-00000012", "step-00000013"]


def test_a_new_run_in_the_folder_of_another_is_refused_and_costs_it_nothing(tmp_path):
    train(made(), stop=2, callbacks=[Checkpoint(tmp_path, every=1)])
    before = names(tmp_path)
    with pytest.raises(ValueError, match="folder must be new, or its run be resumed first; .* step-00000002"):
        train(made(), stop=1, callbacks=[Checkpoint(tmp_path, every=1)])
    assert names(tmp_path) == before == ["step-00000001", "step-00000002"]


def test_several_steps_in_one_go_are_counted(tmp_path):
    train(made(steps_per_execution=2), callbacks=[Checkpoint(tmp_path, every=3, keep=9)])
    assert names(tmp_path) == ["step-00000004", "step-00000006"]


def test_a_folder_without_checkpoints_is_a_beginning(tmp_path):
    assert Checkpoint(tmp_path / "none", every=1).resume(made()) == 0
    (tmp_path / "step-1").mkdir()
    (tmp_path / ".step-00000004-half").mkdir()
    assert Checkpoint(tmp_path, every=1).resume(made()) == 0


def test_half_precision_variables_come_back(tmp_path, under_policy):
    with under_policy("bfloat16"):
        trainer, other = made(), made(seed=1)
    train(trainer, stop=1, callbacks=[Checkpoint(tmp_path, every=1)])
    assert Checkpoint(tmp_path, every=1).resume(other) == 1
    for one, two in zip(state(trainer), state(other), strict=True):
        assert one.dtype == two.dtype and (one == two).all()


# What goes wrong


def written(folder, steps=2):
    train(made(), stop=steps, callbacks=[Checkpoint(folder, every=1)])


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink()], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize("name", ["variables.npz", "config.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, damage, name):
    written(tmp_path)
    damage(tmp_path / "step-00000002" / name)
    with pytest.warns(UserWarning, match=r"step-00000002.* Going on from .*step-00000001\."):
        assert Checkpoint(tmp_path, every=1).resume(made()) == 1
    damage(tmp_path / "step-00000001" / name)
    with pytest.raises(ValueError, match="must hold a checkpoint that can be read; .*02.* .*01"):
        Checkpoint(tmp_path, every=1).resume(made())


def test_a_checkpoint_of_another_model_or_optimizer_is_refused(tmp_path):
    written(tmp_path)
    other = Pretrainer(gpt(21, T, model_dim=4, num_heads=2, hidden_dim=8, num_layers=1, dropout=0.3))
    other.compile(keras.optimizers.Adam(0.05))
    with pytest.raises(ValueError, match="trainer must have the variables of .*step-00000002"):
        Checkpoint(tmp_path, every=1).resume(other)
    other = made()
    other.compile(keras.optimizers.SGD(0.05))
    before = [np.array(x) for x in other.variables]
    with pytest.raises(ValueError, match="Make model and optimizer as they were"):
        Checkpoint(tmp_path, every=1).resume(other)
    assert all((one == two).all() for one, two in zip(before, other.variables, strict=True))


def test_a_write_that_fails_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    written(tmp_path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    trainer, checkpoint = made(), Checkpoint(tmp_path, every=1)
    step = checkpoint.resume(trainer)
    with pytest.raises(OSError, match="no space left"):
        train(trainer, start=step, callbacks=[checkpoint])
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert Checkpoint(tmp_path, every=1).resume(made()) == 2


def test_numbers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="every must be at least 1; received every=0"):
        Checkpoint(tmp_path, every=0)
    with pytest.raises(ValueError, match="keep must be at least 1; received keep=0"):
        Checkpoint(tmp_path, every=1, keep=0)
    with pytest.raises(ValueError, match="tokens_per_step must be at least 1; received tokens_per_step=0"):
        Progress(0)
    with pytest.raises(ValueError, match="every must be at least 1; received every=0"):
        Progress(1, every=0)


# Progress and logs


def validation():
    return {"validation_data": (TOKENS[:4, :-1], TOKENS[:4, 1:])}


def test_progress_is_a_line_every_few_batches_and_one_per_epoch(capsys, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("companion.training.time.perf_counter", lambda: next(clock) / 10)
    history = train(made(), callbacks=[Progress(B * T, every=4)], epochs=2, **validation())
    lines = capsys.readouterr().out.splitlines()
    loss = r"loss (\d\.\d{4})  perplexity (\d+\.\d\d)"
    assert re.fullmatch(rf"step 4/6  {loss}  120 tokens/s", lines[0])  # 12 tokens every tenth of a second
    held_out = loss.replace("loss", "val_loss").replace("perplexity", "val_perplexity")
    last = re.fullmatch(rf"epoch 2/2  {loss}  {held_out}  120 tokens/s", lines[3])
    assert len(lines) == 4 and last
    assert last[1] == f"{history['loss'][1]:.4f}" and last[2] == f"{np.exp(history['loss'][1]):.2f}"
    assert history["tokens_per_second"] == [pytest.approx(120)] * 2


def test_a_log_of_numbers_goes_on_with_the_run(tmp_path):
    trainer = made()
    for epoch in range(2):
        logger = keras.callbacks.CSVLogger(tmp_path / "log.csv", append=True)
        train(trainer, callbacks=[Progress(B * T), logger], epochs=epoch + 1, initial_epoch=epoch)
    head, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert head.startswith("epoch,loss,tokens_per_second")
    assert [row.split(",")[0] for row in rows] == ["0", "1"]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    import tensorflow as tf

    board = keras.callbacks.TensorBoard(tmp_path)
    train(made(), callbacks=[Progress(B * T), board], **validation())
    tags = {
        value.tag
        for path in tmp_path.rglob("*tfevents*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert tags >= {"epoch_loss", "epoch_tokens_per_second"}


def test_training_stops_early_with_the_best_weights(tmp_path):
    trainer = made(rate=1.0)  # far too much: it soon gets worse
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = train(trainer, callbacks=[stop], epochs=40, **validation())
    best = min(history["val_loss"])
    assert len(history["loss"]) == history["val_loss"].index(best) + 3 < 40
    loss = trainer.evaluate(*validation()["validation_data"], verbose=0)
    assert loss == pytest.approx(best, abs=1e-5)

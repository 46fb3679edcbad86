"""Melodies: notes as text and as tokens, the file of tunes, the grammar of artificial ones, copies, sound."""

import io
import re
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from companion import melody
from companion.melody import (
    BEGIN,
    DURATIONS,
    END,
    HIGHEST,
    LOWEST,
    PADDING,
    REST_ID,
    RHYTHMS,
    SCALES,
    VOCABULARY_SIZE,
    Note,
    artificial_tune,
    decode,
    encode,
    longest_copied,
    moves,
    read_melodies,
    read_note,
    synthesize,
    to_wav,
    transposed,
    write_note,
)

MELODIES = Path(__file__).resolve().parents[1] / "data" / "melodies.tsv"


@pytest.fixture(scope="module")
def tunes():
    return [artificial_tune([0, i]) for i in range(300)]


@pytest.fixture(scope="module")
def traditional():
    return read_melodies(MELODIES)


def notes(text):
    return [read_note(note) for note in text.split()]


# Notes as text


@pytest.mark.parametrize(
    "text, note",
    [
        ("C4:1", (60, 1)),
        ("A4:0.5", (69, 0.5)),
        ("F#5:1.5", (78, 1.5)),
        ("Bb3:2", (58, 2)),
        ("R:4", (None, 4)),
    ],
)
def test_a_note_is_read(text, note):
    assert read_note(text) == note
    assert read_note(write_note(read_note(text))) == note


def test_a_note_is_written_with_sharps():
    assert [write_note(Note(pitch, 0.5)) for pitch in (48, 58, 84, None)] == [
        "C3:0.5",
        "A#3:0.5",
        "C6:0.5",
        "R:0.5",
    ]


@pytest.mark.parametrize(
    "text", ["H4:1", "C4", "c4:1", "C:1", "C4:", "C4:0", "R4:1", "C4:1 ", "C##4:1", "C4:-1"]
)
def test_what_is_no_note(text):
    with pytest.raises(ValueError, match=re.escape(f"must look like F#4:1.5 or R:1; received {text!r}")):
        read_note(text)


# The file of traditional tunes


def test_the_traditional_tunes_are_old(traditional):
    assert 12 <= len(traditional) <= 16 and len({tune.title for tune in traditional}) == len(traditional)
    assert all(1500 < tune.year < 1900 and tune.origin for tune in traditional)
    assert len({tune.origin for tune in traditional}) >= 8


def test_their_bars_add_up(traditional):
    """A pickup and the last bar make one bar together; only a note as long as a bar crosses a bar line."""
    for tune in traditional:
        bar = 4 * tune.meter[0] / tune.meter[1]
        lengths = np.array([note.duration for note in tune.notes])
        starts = np.cumsum(lengths) - lengths
        assert lengths.sum() % bar == 0, tune.title

        def fits(pickup, starts=starts, lengths=lengths, bar=bar):
            into = (starts - pickup) % bar
            return np.all((into + lengths <= bar) | ((into == 0) & (lengths >= bar)))

        assert any(fits(pickup) for pickup in (0, 0.5, 1)), tune.title


def test_their_notes_have_tokens_and_end_at_home(traditional):
    for tune in traditional:
        assert decode(encode(tune.notes)) == list(tune.notes)
        pitches = [note.pitch for note in tune.notes if note.pitch is not None]
        assert LOWEST <= min(pitches) and max(pitches) <= HIGHEST and max(pitches) - min(pitches) <= 17
        home = read_note(f"{tune.tonic}4:1").pitch
        assert (pitches[-1] - home) % 12 == 0, tune.title


def test_their_notes_lie_in_their_scales(traditional):
    scales = {"Greensleeves": {*SCALES["minor"], 9, 11}, "Sakura": {0, 1, 5, 7, 8}}  # melodic minor; in
    for tune in traditional:
        scale = scales.get(tune.title.split()[0], set(SCALES["major"]))
        home = read_note(f"{tune.tonic}4:1").pitch
        assert {(note.pitch - home) % 12 for note in tune.notes if note.pitch is not None} <= scale, (
            tune.title
        )


def test_a_damaged_file_names_its_line(tmp_path):
    path = tmp_path / "tunes.tsv"
    header = "title\torigin\tyear\tmeter\ttonic\tnotes\n"
    path.write_text(header + "A\tB\t1800\t3/4\tC\tC4:1 R:2\n", encoding="utf-8")
    (tune,) = read_melodies(path)
    assert tune == ("A", "B", 1800, (3, 4), "C", ((60, 1.0), (None, 2.0)))
    for line, message in {
        "A\tB\t1800\t3/4\tC\tC4:1 H4:2": "line 2: a note must look like F#4:1.5 or R:1; received 'H4:2'",
        "A\tB\t1800\t3/4\tC": "line 2: not enough values",
        "A\tB\told\t3/4\tC\tC4:1": "line 2: invalid literal",
    }.items():
        path.write_text(header + line, encoding="utf-8")
        with pytest.raises(ValueError, match=re.escape(message)):
            read_melodies(path)
    path.write_text("title\tnotes\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match="must begin with the columns title, origin, year, meter, tonic, notes"
    ):
        read_melodies(path)
    with pytest.raises(FileNotFoundError):
        read_melodies(tmp_path / "none.tsv")


# Tokens


def test_tokens_by_hand():
    assert encode([]) == [END]
    first = encode([Note(LOWEST, 0.25), Note(None, 4.0), Note(HIGHEST, 1.0)])
    assert first == [REST_ID + 1, 41, REST_ID, 48, 40, 44, END] and VOCABULARY_SIZE == 49


def test_every_note_has_its_tokens():
    everything = [Note(p, d) for p in (None, *range(LOWEST, HIGHEST + 1)) for d in DURATIONS]
    tokens = encode(everything)
    assert decode(tokens) == everything
    assert set(tokens) | {PADDING, BEGIN} == set(range(VOCABULARY_SIZE))


def test_what_follows_the_end_is_not_looked_at():
    assert decode([*encode(notes("C4:1")), 7, 7, PADDING]) == notes("C4:1")


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-1], lambda t: t[1:], lambda t: [BEGIN, *t], lambda t: [*t[:3], END]]
)
def test_streams_that_are_no_melody(damage):
    tokens = damage(encode(notes("C4:1 D4:0.5")))
    with pytest.raises(ValueError, match="tokens must be a pitch and a duration in turn, then END; after"):
        decode(tokens)


def test_notes_without_tokens():
    with pytest.raises(ValueError, match="pitch must be from 48 to 84 or None; received pitch=47"):
        encode([Note(47, 1)])
    with pytest.raises(ValueError, match="duration must be among .*; received duration=0.3"):
        encode([Note(60, 0.3)])


def test_transposing_moves_pitches_only():
    assert transposed(notes("C4:1 R:2 B4:0.5"), 1) == tuple(notes("C#4:1 R:2 C5:0.5"))
    assert transposed(transposed(notes("C4:1 R:2"), -5), 5) == tuple(notes("C4:1 R:2"))


# The grammar


def test_a_tune_is_a_a_b_a(tunes):
    for tune in tunes:
        first, second, third, last = (
            [note for note, phrase in zip(tune.notes, tune.phrases, strict=True) if phrase == number]
            for number in range(4)
        )
        assert first == second == last and third[:-1] != first[:-1]
        assert list(tune.phrases) == sorted(tune.phrases)
        assert 28 <= len(tune.notes) <= 52
        for part in (first, third):
            assert sum(note.duration for note in part) == 8 and part[-1].duration == 2
        assert (third[-1].pitch - first[-1].pitch) == 7  # B ends on the fifth


def bars(phrase):
    """The four bars of a phrase."""
    found, place = [[], [], [], []], 0.0
    for note in phrase:
        found[int(place // 2)].append(note)
        place += note.duration
    return found


def test_the_second_bar_is_the_first_moved_along_the_scale(tunes):
    shifts = Counter()
    for tune in tunes:
        (tonic, _), *_ = [n for n, p in zip(tune.notes, tune.phrases, strict=True) if p == 0][::-1]
        used = {(note.pitch - tonic) % 12 for note in tune.notes}
        scale = next(scale for scale in SCALES.values() if used <= set(scale))
        for number in (0, 2):
            phrase = [n for n, p in zip(tune.notes, tune.phrases, strict=True) if p == number]
            motif, moved, other, _ = bars(phrase)
            for bar in (motif, moved, other):
                assert tuple(note.duration for note in bar) in RHYTHMS
            assert [note.duration for note in motif] == [note.duration for note in moved]
            degrees = [
                [7 * ((n.pitch - tonic) // 12) + scale.index((n.pitch - tonic) % 12) for n in bar]
                for bar in (motif, moved, other)
            ]
            assert degrees[0][0] in (0, 2, 4) and degrees[2][0] in (0, 2, 4)
            for bar in (degrees[0], degrees[2]):
                assert all(abs(step) <= 2 for step in np.diff(bar)) and min(bar) >= -2 and max(bar) <= 8
            if len(set(used)) > 5:  # else both scales may fit, and degrees be misread
                (shift,) = set(np.subtract(degrees[1], degrees[0]).tolist())
                shifts[shift] += 1
    assert set(shifts) == {-2, -1, 1, 2} and min(shifts.values()) > 60


def test_tunes_are_seeded_varied_and_in_any_key(tunes):
    assert artificial_tune([0, 7]) == tunes[7] and len({tune.notes for tune in tunes}) == 300
    assert {tune.notes[-1].pitch for tune in tunes} == set(range(55, 67))
    assert artificial_tune(3, tonic=60).notes[-1].pitch == 60
    assert all(decode(encode(tune.notes)) == list(tune.notes) for tune in tunes)
    with pytest.raises(ValueError, match="tonic must be from 55 to 66; received tonic=67"):
        artificial_tune(0, tonic=67)


def test_another_key_is_another_tonic():
    high, low = (artificial_tune(5, tonic=tonic) for tonic in (66, 55))
    assert high.notes == transposed(low.notes, 11) and high.phrases == low.phrases


def test_the_highest_and_lowest_tones_have_tokens(monkeypatch):
    for step in (-2, 2):  # always as far as the grammar goes
        monkeypatch.setattr(melody, "STEPS", {step: 1.0, 0: 1e-9})
        for seed in range(60):
            for tonic in (55, 66):
                encode(artificial_tune(seed, tonic).notes)


# Copies


def test_moves_are_the_same_in_every_key():
    some = notes("C4:1 E4:0.5 R:1 G4:2")
    assert moves(some) == [(1, 4, 0.5), (0.5, None, 1), (1, None, 2)]
    assert moves(transposed(some, 5)) == moves(some) and moves(some[:1]) == []


def test_longest_copied():
    source = notes("C4:1 D4:1 E4:1 F4:0.5 G4:0.5 A4:1")
    assert longest_copied(source, [source]) == 6
    assert longest_copied(transposed(source, 3), [notes("R:1"), source]) == 6
    piece = notes("A3:2 E4:1 F#4:1 G#4:1 A3:2")  # C D E, a third higher
    assert longest_copied(piece, [source]) == 3
    assert longest_copied(piece, []) == longest_copied(piece[:1], [source]) == 1
    assert longest_copied([], [source]) == 0
    halves = [source[:3], source[3:]]
    assert longest_copied(source, halves) == 3  # pieces of different melodies do not join


# Sound


def test_a_tone_has_its_pitch_and_its_length():
    sound = synthesize(notes("A4:2"), tempo=120, rate=8000)
    assert len(sound) == 8000
    loudness = abs(np.fft.rfft(sound))
    peaks = [loudness[k * 440 - 5 : k * 440 + 6].max() for k in (1, 2, 3, 4)]
    assert loudness.argmax() == 440 and peaks[0] > 1.8 * peaks[1] > 3 * peaks[2] > 5 * peaks[3] > 5
    octave = abs(np.fft.rfft(synthesize(notes("A5:2"), rate=8000)))
    assert octave.argmax() == 880


def test_sound_neither_clips_nor_clicks():
    """Every note begins and ends at 0, and no sample jumps further than its fastest harmonic."""
    rate = 11_025
    sound = synthesize(artificial_tune(1, tonic=60).notes, tempo=240, rate=rate)
    assert 0.3 < abs(sound).max() < 0.9
    assert abs(np.diff(sound)).max() < 0.5
    ends = np.cumsum([note.duration for note in artificial_tune(1, tonic=60).notes]) * 60 / 240 * rate
    assert len(sound) == round(ends[-1])
    for end in np.rint(ends).astype(int):
        assert abs(sound[max(end - 3, 0) : end + 3]).max() < 0.02


def test_a_rest_is_silent_and_nothing_sounds_like_nothing():
    sound = synthesize(notes("C4:1 R:1 C4:1"), tempo=60, rate=8000)
    assert len(sound) == 24_000 and not sound[8000:16_000].any() and sound[:8000].any()
    assert synthesize([]).shape == (0,)


def test_harmonics_above_half_the_rate_are_left_out():
    """Of C8, at 16,000 samples a second, the second harmonic is beyond reach and would come back lower."""
    loudness = abs(np.fft.rfft(synthesize([Note(108, 2.0)], rate=16_000)))  # one bin is one hertz
    strong = np.flatnonzero(loudness > loudness.max() / 20)
    assert abs(strong - 440 * 2 ** (39 / 12)).max() < 60


def test_wav_files_are_read_back():
    samples = np.array([0, 1, -1, 0.5])
    data = to_wav(samples, rate=8000)
    assert len(data) == 44 + 2 * 4 and data[:4] == b"RIFF"
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (
            1,
            2,
            8000,
            4,
        )
        np.testing.assert_array_equal(np.frombuffer(file.readframes(4), "<i2"), [0, 32_767, -32_767, 16_384])


def test_bad_sound():
    with pytest.raises(
        ValueError, match=re.escape("samples must be (N,) in [-1, 1]; received shape (1,), peak 1.5")
    ):
        to_wav([1.5])
    with pytest.raises(ValueError, match=re.escape("received shape (2, 2)")):
        to_wav(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="samples must be"):
        to_wav([np.nan])
    with pytest.raises(ValueError, match="rate must be at least 8000; received rate=4000"):
        synthesize([], rate=4000)
    with pytest.raises(ValueError, match="tempo must be above 0; received tempo=0"):
        synthesize([], tempo=0)

"""Melodies: tokens for notes, traditional and artificial tunes, and their sound (article section 6.2)."""

import csv
import io
import os
import re
import wave
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from companion.base import check_at_least

PADDING, BEGIN, END = range(3)
LOWEST, HIGHEST = 48, 84  # MIDI numbers: C3 to C6
DURATIONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # quarter notes
REST_ID = 3
DURATION_ID = REST_ID + 1 + HIGHEST - LOWEST + 1  # of the shortest
VOCABULARY_SIZE = DURATION_ID + len(DURATIONS)

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
COLUMNS = ("title", "origin", "year", "meter", "tonic", "notes")

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
RHYTHMS = ((1, 1), (0.5, 0.5, 1), (1, 0.5, 0.5), (1.5, 0.5), (0.5, 1, 0.5), (0.5, 0.5, 0.5, 0.5))
STEPS = {-2: 0.15, -1: 0.3, 0: 0.1, 1: 0.3, 2: 0.15}


class Note(NamedTuple):
    """A pitch as MIDI number, 60 is middle C and None a rest, and a duration in quarter notes."""

    pitch: int | None
    duration: float


class Melody(NamedTuple):
    """A line of data/melodies.tsv; meter: (beats, what fraction of a whole note is a beat)."""

    title: str
    origin: str
    year: int
    meter: tuple[int, int]
    tonic: str
    notes: tuple[Note, ...]


class Tune(NamedTuple):
    """An artificial tune; phrases says of each note in which of the phrases A A B A, 0 to 3, it lies."""

    notes: tuple[Note, ...]
    phrases: tuple[int, ...]


def read_note(text: str) -> Note:
    """`F#4:1.5` as a note: a letter, # or b, the octave (C4 is middle C), quarter notes; `R:1` is a rest.

    Raises:
        ValueError: the text is no such note.
    """
    match = re.fullmatch(r"(?:([A-G])([#b]?)(\d)|R):(\d+(?:\.\d+)?)", text)
    if not match or float(match[4]) <= 0:
        raise ValueError(f"a note must look like F#4:1.5 or R:1; received {text!r}.")
    if match[1] is None:
        return Note(None, float(match[4]))
    semitones = LETTERS[match[1]] + {"": 0, "#": 1, "b": -1}[match[2]]
    return Note(12 * (int(match[3]) + 1) + semitones, float(match[4]))


def write_note(note: Note) -> str:
    """The inverse of `read_note`, with sharps."""
    name = "R" if note.pitch is None else f"{NAMES[note.pitch % 12]}{note.pitch // 12 - 1}"
    return f"{name}:{note.duration:g}"


def read_melodies(path: str | os.PathLike) -> list[Melody]:
    """Reads tunes from a file with a header and tab-separated columns, as data/melodies.tsv.

    Args:
        path: Columns title, origin, year, meter ("3/4"), tonic, notes ("C4:1 D4:0.5 R:1").
    Returns:
        The tunes, in the order of the file.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another header, or a line that cannot be read; the message names it.
    """
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(header) != COLUMNS:
        raise ValueError(f"{path} must begin with the columns {', '.join(COLUMNS)}; received {header}.")
    return [_melody(row, f"{path}, line {number}") for number, row in enumerate(rows, start=2)]


def _melody(row, place):
    try:
        title, origin, year, meter, tonic, notes = row
        beats, unit = map(int, meter.split("/"))
        return Melody(title, origin, int(year), (beats, unit), tonic, tuple(map(read_note, notes.split())))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def encode(notes: Iterable[Note]) -> list[int]:
    """Two tokens a note, its pitch and its duration, then END.

    Args:
        notes: Pitches from LOWEST to HIGHEST or None, durations among DURATIONS.
    Returns:
        Token ids below VOCABULARY_SIZE.
    Raises:
        ValueError: a pitch or a duration that has no token.
    Source: the idea of events in place of sound: Huang et al. 2019, section 3.1. Differs: one voice, so that
    a note is its pitch and its duration; no loudness.
    """
    tokens = []
    for pitch, duration in notes:
        if pitch is not None and not LOWEST <= pitch <= HIGHEST:
            raise ValueError(f"pitch must be from {LOWEST} to {HIGHEST} or None; received pitch={pitch}.")
        if duration not in DURATIONS:
            raise ValueError(f"duration must be among {DURATIONS}; received duration={duration}.")
        tokens.append(REST_ID if pitch is None else REST_ID + 1 + pitch - LOWEST)
        tokens.append(DURATION_ID + DURATIONS.index(duration))
    return [*tokens, END]


def decode(tokens: Sequence[int]) -> list[Note]:
    """The notes of tokens up to END; what follows it is not looked at.

    Raises:
        ValueError: pitches and durations do not alternate, or there is no END.
    """
    notes, tokens = [], list(map(int, tokens))
    for place in range(0, len(tokens), 2):
        if tokens[place] == END:
            return notes
        pitch, duration = (*tokens[place : place + 2], PADDING)[:2]
        if not (REST_ID <= pitch < DURATION_ID <= duration < VOCABULARY_SIZE):
            break
        height = None if pitch == REST_ID else pitch - REST_ID - 1 + LOWEST
        notes.append(Note(height, DURATIONS[duration - DURATION_ID]))
    raise ValueError(
        "tokens must be a pitch and a duration in turn, then END; after "
        f"{len(notes)} notes received {tokens[2 * len(notes) : 2 * len(notes) + 2]}."
    )


def transposed(notes: Iterable[Note], semitones: int) -> tuple[Note, ...]:
    """The same notes higher, or with negative semitones lower; rests stay."""
    return tuple(Note(None if p is None else p + semitones, duration) for p, duration in notes)


def artificial_tune(seed: int | Sequence[int], tonic: int | None = None) -> Tune:
    """Draws a tune of the form A A B A: each A is the same, note for note.

    A phrase has four bars of 2/4: a motif, the same motif moved along the scale by one or two degrees up or
    down, another motif, and a half note, the tonic in A, the fifth in B. A motif is one of RHYTHMS and a walk
    along the scale: it begins on the first, third or fifth degree and goes on by STEPS, between two degrees
    below the tonic and the ninth. The scale is major or natural minor. All other choices are equally likely.

    Args:
        seed: What NumPy's default_rng takes; the same seed gives the same tune.
        tonic: MIDI number from 55 to 66; drawn, if not given.
    Returns:
        The tune, of 28 to 52 notes in 32 quarters.
    Raises:
        ValueError: tonic outside 55 to 66.
    """
    rng = np.random.default_rng(seed)
    tonic = int(rng.integers(55, 67)) if tonic is None else tonic
    if not 55 <= tonic <= 66:
        raise ValueError(f"tonic must be from 55 to 66; received tonic={tonic}.")
    scale = SCALES[str(rng.choice(list(SCALES)))]
    first, other = ([*_phrase(rng), (last, 2.0)] for last in (0, 4))
    degrees = [(*note, phrase) for phrase, part in enumerate((first, first, other, first)) for note in part]
    notes = tuple(Note(tonic + scale[degree % 7] + 12 * (degree // 7), float(d)) for degree, d, _ in degrees)
    return Tune(notes, tuple(phrase for *_, phrase in degrees))


def _phrase(rng):
    """Three bars as pairs of degree, 0 is the tonic, and duration."""
    motif, other = _motif(rng), _motif(rng)
    move = int(rng.choice([-2, -1, 1, 2]))
    return motif + [(degree + move, duration) for degree, duration in motif] + other


def _motif(rng):
    rhythm = RHYTHMS[rng.integers(len(RHYTHMS))]
    degrees = [int(rng.choice([0, 2, 4]))]
    while len(degrees) < len(rhythm):
        steps = {step: weight for step, weight in STEPS.items() if -2 <= degrees[-1] + step <= 8}
        shares = np.array(list(steps.values()))
        degrees.append(degrees[-1] + int(rng.choice(list(steps), p=shares / shares.sum())))
    return list(zip(degrees, rhythm, strict=True))


def moves(notes: Sequence[Note]) -> list[tuple]:
    """What stays of a melody in another key: for each note but the last its duration, how many semitones the
    next is higher (None next to a rest), and the next one's duration."""
    return [
        (a.duration, None if None in (a.pitch, b.pitch) else b.pitch - a.pitch, b.duration)
        for a, b in zip(notes, notes[1:], strict=False)
    ]


def longest_copied(notes: Sequence[Note], melodies: Iterable[Sequence[Note]]) -> int:
    """How many successive notes at most are those of some other melody, in whatever key.

    Returns:
        0 to len(notes); 1 if no move from a note to the next is found there.
    """
    signs: dict[tuple, str] = {}  # one character for each move, so that a melody is a string

    def spelled(melody):
        return "".join(signs.setdefault(move, chr(len(signs) + 1)) for move in moves(melody))

    text, wanted, length = "\0".join(map(spelled, melodies)), spelled(notes), 0
    for start in range(len(wanted)):
        while start + length < len(wanted) and wanted[start : start + length + 1] in text:
            length += 1
    return min(length + 1, len(notes))


def synthesize(notes: Iterable[Note], tempo: float = 120, rate: int = 11_025) -> np.ndarray:
    """The sound of a melody: four harmonics that fade, each note in an envelope that begins and ends at 0.

    Args:
        notes: What is played, one after the other, in equal temperament with A4 at 440 Hz.
        tempo: Quarter notes a minute, above 0.
        rate: Samples a second, >= 8,000: the harmonics stay below half of it.
    Returns:
        (samples,) float64 in (-1, 1).
    Raises:
        ValueError: a number out of its range.
    """
    check_at_least(8_000, rate=rate)
    if not tempo > 0:
        raise ValueError(f"tempo must be above 0; received tempo={tempo}.")
    notes = list(notes)
    ends = np.rint(np.cumsum([0, *(note.duration for note in notes)]) * 60 / tempo * rate).astype(int)
    sound = [_tone(note.pitch, samples, rate) for note, samples in zip(notes, np.diff(ends), strict=True)]
    return np.concatenate([np.zeros(0), *sound])


def _tone(pitch, samples, rate):
    if pitch is None:
        return np.zeros(samples)
    seconds = np.arange(samples) / rate
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    loudness = {k: 0.5**k for k in range(1, 5) if k * frequency < rate / 2}  # sums to less than 1
    wave_form = sum(share * np.sin(2 * np.pi * k * frequency * seconds) for k, share in loudness.items())
    edges = np.minimum(seconds / 0.01, (samples - 1) / rate / 0.03 - seconds / 0.03)  # 10 ms up, 30 ms down
    return 0.9 * wave_form * np.clip(edges, 0, 1) * np.exp(-1.5 * seconds)


def to_wav(samples: np.ndarray, rate: int = 11_025) -> bytes:
    """Sound as a WAV file: one channel of 16 bits.

    Args:
        samples: (N,) float in [-1, 1].
        rate: Samples a second.
    Returns:
        The bytes of the file: 44 and two a sample.
    Raises:
        ValueError: samples of another shape, or outside [-1, 1].
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or not (abs(samples) <= 1).all():
        peak = abs(samples).max(initial=0)
        raise ValueError(f"samples must be (N,) in [-1, 1]; received shape {samples.shape}, peak {peak}.")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.rint(samples * 32_767).astype("<i2").tobytes())
    return file.getvalue()

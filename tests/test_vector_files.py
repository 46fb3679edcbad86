import gzip
import io
import re
import struct
import tracemalloc
import warnings
import zipfile
from functools import partial

import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors
from gensim.models.fasttext import load_facebook_vectors, save_facebook_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from companion import vector_files, vector_streams
from companion.subwords import Subwords
from companion.vector_files import VectorData, read_vectors, write_vectors

WORDS = ["the", "北京", "café", ",", "\x85", "a\u3000b", "#1"]
SUFFIXES = {"glove": "txt", "word2vec": "vec", "word2vec-binary": "bin"}
ROWS = "a 0.5 1\nb -2 3e-1\nc .25 +4.\n"  # three words of two numbers
VALUES = np.array([[0.5, 1], [-2, 0.3], [0.25, 4]], "float32")
MAGIC, NO_NGRAMS = struct.pack("<i", 793712314), {"bucket": 0, "minn": 0, "maxn": 0}


@pytest.fixture
def vectors(rng):
    return rng.standard_normal((len(WORDS), 5), dtype="float32")


@pytest.fixture
def subwords(rng):
    return Subwords(rng.standard_normal((60, 5), dtype="float32"), 2, 4)


@pytest.fixture
def put(tmp_path):
    """Write text or bytes to a file; returns its path."""

    def written(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def binary(words=("a", "b", "c"), values=VALUES, newline=b"\n"):
    rows = (word.encode() + b" " + row.tobytes() + newline for word, row in zip(words, values, strict=True))
    return b"%d %d\n" % values.shape + b"".join(rows)


def model(words=(b"a", b"bc", b"\xe5\x8c\x97"), own=None, table=None, **changes):
    """A fastText model, written a second time; `changes` are fields of its header."""
    own = np.arange(2 * len(words), dtype="<f4").reshape(-1, 2) if own is None else own
    table = np.arange(8, dtype="<f4").reshape(4, 2) if table is None else table
    fields = dict(version=12, dim=2, ws=5, epoch=5, min_count=1, neg=5, word_ngrams=1, loss=2, model=1)
    fields |= dict(bucket=4, minn=2, maxn=3, rate=100, t=1e-4, size=len(words), nwords=len(words), nlabels=0)
    fields |= dict(ntokens=9, pruned=-1, type=0, quantized=0, rows=len(own) + len(table), columns=2)
    fields |= dict(output_quantized=0, output_rows=1, output_columns=2) | changes
    numbers = list(fields.values())
    parts = [MAGIC, struct.pack("<13id", *numbers[:14]), struct.pack("<3i2q", *numbers[14:19])]
    parts += [word + struct.pack("<bqb", 0, 7 - i, fields["type"]) for i, word in enumerate(words)]
    parts += [struct.pack("<b2q", *numbers[20:23]), own.tobytes(), table.tobytes()]
    return b"".join(parts) + struct.pack("<b2q", *numbers[23:26]) + bytes(8)


def same(data, words, vectors):
    assert isinstance(data, VectorData) and data.words == list(words)
    assert data.vectors.dtype == np.float32 and data.vectors.flags.c_contiguous
    np.testing.assert_array_equal(data.vectors, np.asarray(vectors, np.float32))


def keyed(words, vectors):
    result = KeyedVectors(vectors.shape[1])
    result.add_vectors(list(words), vectors)
    return result


# Formats


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_what_is_written_is_read_back_bit_by_bit(tmp_path, vectors, format, gz):
    vectors[0] = [-0.0, 1e-45, np.finfo("float32").max, 1 / 3, -1e-38]
    path = tmp_path / "made" / f"file.{SUFFIXES[format]}{gz}"
    write_vectors(path, WORDS, vectors)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == bool(gz)
    for known in (None, format):
        data = read_vectors(path, format=known)
        same(data, WORDS, vectors)
        assert data.vectors.tobytes() == vectors.tobytes() and data.subwords is data.counts is None


@given(
    words=st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters=" \n"), min_size=1),
                   min_size=3, max_size=3, unique=True),
    vectors=arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    format=st.sampled_from(sorted(SUFFIXES)),
)  # fmt: skip
def test_any_word_and_any_number_is_read_back(tmp_path_factory, words, vectors, format):
    path = tmp_path_factory.getbasetemp() / "any"
    write_vectors(path, words, vectors, format)
    data = read_vectors(path, format=format)
    assert data.words == words and data.vectors.tobytes() == vectors.tobytes()


def test_a_file_by_hand(put):
    same(read_vectors(put(ROWS)), "abc", VALUES)
    same(read_vectors(put("3 2\n" + ROWS)), "abc", VALUES)
    same(read_vectors(put(binary())), "abc", VALUES)
    same(read_vectors(put(binary(newline=b""))), "abc", VALUES)


def test_gensim_reads_what_is_written(tmp_path, vectors):
    words = ["the", "北京", "café", ",", "#1", "a", "b"]  # gensim parts lines at any whitespace
    for format, suffix in SUFFIXES.items():
        path = tmp_path / f"file.{suffix}"
        write_vectors(path, words, vectors)
        kinds = {"binary": format == "word2vec-binary", "no_header": format == "glove"}
        theirs = KeyedVectors.load_word2vec_format(str(path), **kinds)
        assert theirs.index_to_key == words
        np.testing.assert_array_equal(theirs.vectors, vectors)


@pytest.mark.parametrize("options", [{}, {"binary": True}, {"write_header": False}])
def test_what_gensim_writes_is_read(tmp_path, vectors, options):
    keyed(WORDS, vectors).save_word2vec_format(str(tmp_path / "file"), **options)
    same(read_vectors(tmp_path / "file"), WORDS, vectors)


@pytest.mark.parametrize("format", FORMATS := ["glove", "word2vec", "word2vec-binary", "fasttext"])
def test_gz_and_zip_are_known_by_their_bytes(tmp_path, vectors, format):
    write_vectors(tmp_path / "plain", WORDS, vectors, format)
    content = (tmp_path / "plain").read_bytes()
    (tmp_path / "packed.txt").write_bytes(gzip.compress(content))
    with zipfile.ZipFile(tmp_path / "zipped.vec", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("folder/inner.bin", content)
        file.mkdir("empty")
    for name in ("packed.txt", "zipped.vec"):
        same(read_vectors(tmp_path / name), WORDS, vectors)
        same(read_vectors(str(tmp_path / name), vocabulary=["café"]), ["café"], vectors[2:3])


def test_which_file_of_a_zip_is_meant_must_be_clear(put, tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.writestr("small.txt", ROWS)
        file.writestr("large.txt", ROWS.replace("a", "z"))
    same(read_vectors(tmp_path / "two.zip", member="large.txt"), "zbc", VALUES)
    for member in (None, "other.txt"):
        message = rf"member= must be one of the files in .*two.zip: \['small.txt', 'large.txt'\]; .*{member}"
        with pytest.raises(ValueError, match=message):
            read_vectors(tmp_path / "two.zip", member=member)
    with pytest.raises(ValueError, match="member must be None where the file is no zip; received member='a'"):
        read_vectors(put(ROWS), member="a")
    zipfile.ZipFile(tmp_path / "none.zip", "w").close()
    with pytest.raises(ValueError, match=r"member= must be one of the files in .*none.zip: \[\]"):
        read_vectors(tmp_path / "none.zip")


def test_the_format_can_be_said(put):
    same(read_vectors(put("5 2\n6 3\n"), format="glove"), "56", [[2], [3]])
    path = put("2 1\n6 3\n7 4\n")
    same(read_vectors(path), "67", [[3], [4]])
    same(read_vectors(path, format="glove"), "267", [[1], [3], [4]])
    with pytest.raises(ValueError, match=r"must be one of \('glove', 'word2vec', .*'\); received format='x'"):
        read_vectors(path, format="x")


# Quirks of real files


def test_words_with_spaces(put):
    same(read_vectors(put(". . . 0.5 1\nat name@domain.com 2 3\n1 4 5\n")),
         [". . .", "at name@domain.com", "1"], [[0.5, 1], [2, 3], [4, 5]])  # fmt: skip
    same(read_vectors(put("2 2\n北 京 1 2\nb 3 4\n")), ["北 京", "b"], [[1, 2], [3, 4]])


def test_repeated_words_are_counted_in_one_warning(put):
    rows = "a 1 2\nb 3 4\na 5 6\na 7 8\n"
    for content in (rows, "4 2\n" + rows, binary("abaa", np.arange(1, 9, dtype="float32").reshape(4, 2))):
        with pytest.warns(UserWarning, match="file repeats 2 words: the first of each stays") as caught:
            data = read_vectors(put(content))
        assert len(caught) == 1 and caught[0].filename == __file__
        same(data, "ab", [[1, 2], [3, 4]])


def test_a_good_file_gives_no_warning(put):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(read_vectors(put(ROWS)), "abc", VALUES)
        same(read_vectors(put(ROWS), "cb"[:0].split()), [], np.zeros((0, 2)))


def test_invalid_utf_8_is_replaced(put):
    same(read_vectors(put(b"caf\xe9 1 2\nb 3 4\n")), ["caf\ufffd", "b"], [[1, 2], [3, 4]])
    content = b"1 2\ncaf\xe9 " + VALUES[0].tobytes()
    same(read_vectors(put(content)), ["caf\ufffd"], VALUES[:1])


@pytest.mark.parametrize("header", ["", "3 2\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", " \r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n \n"])
def test_ends_of_lines(put, header, end, last):
    text = (header + ROWS).replace("\n", end)
    same(read_vectors(put(text + last)), "abc", VALUES)
    same(read_vectors(put(text.removesuffix(end))), "abc", VALUES)


def test_exotic_whitespace_is_part_of_a_word(put):
    words = ["\x85", "\u3000", "\u2028", "\xa0", "\t", "\x0c", "\x1c", "\r", "\ufeff"]
    text = "".join(f"{word} {i} 0.5\n" for i, word in enumerate(words))
    values = [[i, 0.5] for i in range(len(words))]
    same(read_vectors(put(text)), words, values)
    same(read_vectors(put(f"{len(words)} 2\n{text}")), words, values)
    same(read_vectors(put(binary(words, np.array(values, "float32")))), words, values)


def test_lines_and_records_across_chunks(tmp_path, monkeypatch, vectors, subwords):
    for format in FORMATS:
        write_vectors(tmp_path / format, WORDS, vectors, format, subwords)
        whole = read_vectors(tmp_path / format)
        for chunk in (1, 2, 3, 50):
            monkeypatch.setattr(vector_streams, "CHUNK", chunk)
            same(read_vectors(tmp_path / format), WORDS, whole.vectors)


# Some words only


@pytest.mark.parametrize("format", ["glove", "word2vec", "word2vec-binary"])
def test_a_vocabulary_keeps_its_words_in_the_order_of_the_file(tmp_path, vectors, format):
    write_vectors(tmp_path / "file", WORDS, vectors, format)
    for vocabulary in (["#1", "café", "missing", "café"], {"#1", "café"}, {"café": 1, "#1": 2}):
        same(read_vectors(tmp_path / "file", vocabulary), ["café", "#1"], vectors[[2, 6]])
    same(read_vectors(tmp_path / "file", []), [], np.zeros((0, 5)))


def test_reading_stops_when_all_words_were_found(put):
    rest = "x 1"
    for content in (ROWS + rest, "5 2\n" + ROWS + rest):
        same(read_vectors(put(content), ["b"]), "b", VALUES[1:2])
        with pytest.raises(ValueError, match="line [45]: "):
            read_vectors(put(content), ["b", "missing"])
    content = binary().replace(b"3 2\n", b"9 2\n") + b"x" * 50
    same(read_vectors(put(content), ["b"]), "b", VALUES[1:2])
    with pytest.raises(ValueError, match="byte"):
        read_vectors(put(content), ["b", "missing"])


def test_a_vocabulary_is_a_collection_of_strings(put):
    with pytest.raises(TypeError, match="vocabulary must be a collection of strings; received 'abc'"):
        read_vectors(put(ROWS), "abc")
    with pytest.raises(TypeError, match="a word of vocabulary must be a string; received int"):
        read_vectors(put(ROWS), [3])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("pack", [bytes, partial(gzip.compress, compresslevel=1)])
def test_little_memory_is_used_for_few_words(put, tmp_path, rng, format, pack):
    words, vectors = [f"w{i}" for i in range(12_000)], rng.standard_normal((12_000, 200), dtype="float32")
    write_vectors(tmp_path / "plain", words, vectors, format)
    path = put(pack((tmp_path / "plain").read_bytes()))
    tracemalloc.start()
    few = read_vectors(path, ["w3", "w11999", "none"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    same(few, ["w3", "w11999"], vectors[[3, -1]])
    assert peak < 6e6 < vectors.nbytes


@pytest.mark.parametrize("format", FORMATS)
def test_memory_is_little_more_than_the_matrix(tmp_path, rng, format):
    words, vectors = [f"w{i}" for i in range(12_000)], rng.standard_normal((12_000, 200), dtype="float32")
    write_vectors(tmp_path / "file", words, vectors, format)
    tracemalloc.start()
    data = read_vectors(tmp_path / "file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    same(data, words, vectors)
    assert peak < vectors.nbytes + 9e6


def test_a_bar_is_shown_for_long_files_only(put, capsys, monkeypatch):
    path = put(gzip.compress(ROWS.encode()), "vectors.gz")
    read_vectors(path)
    monkeypatch.setattr(vector_streams, "LONG_FILE", 10)
    read_vectors(path, progress=False)
    assert capsys.readouterr().err == ""
    read_vectors(path)
    assert re.search(rf"vectors.gz: 100%.*{path.stat().st_size}", capsys.readouterr().err)


# Damaged files


@pytest.mark.parametrize(
    "text, message",
    [
        ("a 1 2\nb 3\n", "file, line 2: expected a word and 2 numbers.*; found 1 after 'b'"),
        ("a 1 2\nb 3 4 5\n", "line 2: expected a word and 2 numbers, a space before each; found 3 after 'b'"),
        ("a 1 2\nb  3 4\n", "line 2: expected a word and 2 numbers, a space before each; found 3 after 'b'"),
        ("a 1 2\nb\n", "line 2: expected a word and 2 numbers.*; found 0 after 'b'"),
        ("a 1 2\nb 3 x4\n", "line 2: expected a number in column 2; found 'x4'"),
        ("a 1 2\nb 3 4-5\n", "line 2: expected a number in column 2; found '4-5'"),
        ("a 1 2\nb 3 1_0\n", "line 2: expected a number in column 2; found '1_0'"),
        ("a 1 2\nb 3 1e\n", "line 2: expected a number in column 2; found '1e'"),
        ("a 1 2\nb 3 4\t\n", r"line 2: expected a number in column 2; found '4\\t'"),
        ("a 1 2\nb 3 nan\n", "line 2: expected a finite float32 in column 2; found nan"),
        ("a 1 2\nb -inf 4\n", "line 2: expected a finite float32 in column 1; found -inf"),
        ("a 1 2\nb 3 1e39\n", "line 2: expected a finite float32 in column 2; found 1e39"),
        ("a 1 2\n 3 4\n", "line 2: expected a word before the first space; found ' 3 4'"),
        ("a 1 2\n\nb 3 4\n", "line 2: expected a word and its numbers; found a blank line"),
        ("\na 1 2\n", "line 1: expected a word and its numbers; found a blank line"),
        ("\n\n", "line 1: expected a word and its numbers; found blank lines only"),
        ("a b c\n", "line 1: expected a word and its numbers; found 'a b c'"),
        ("a 1 nan\n", "line 1: expected a finite float32 in column 2; found nan"),
        ("a 1 x 3\nb 1 2 3\n", "line 1: expected a word and 1 numbers.*; found 3 after 'a'"),
        ("a x 3\nb 1 2 3\n", "line 2: expected a word and 1 numbers.*; found 3 after 'b'"),
        ("a\t1\t2\n", r"line 1: expected a word and its numbers; found 'a\\t1\\t2'"),
        ("3 2\na 1.55 2.55\nb 3 4\n", "line 3: expected 3 words, as the .*; found the end .* after 2"),
        ("1 2\na 1 2\nb 3 4\n", "line 3: expected nothing after the 1 words.*; found 'b 3 4'"),
        ("2 2\na 1 x\nb 3 4\n", "line 2: expected a number in column 2; found 'x'"),
        ("2 2\na 1 2 5\nb 3 4\n", "line 2: expected a word and 2 numbers.*; found 3 after 'a'"),
        ("2 2\na 1\nbb 3 4 5\n", "line 2: expected a word and 2 numbers.*; found 1 after 'a'"),
        ("0 2\n", "line 1: expected at least 1 word of 1 to 1048576 numbers; found 0 of 2"),
        ("2 0\na\nb\n", "line 1: expected at least 1 word of 1 to 1048576 numbers; found 2 of 0"),
        ("-2 2\na 1 2\n", "line 1: expected at least 1 word .*; found -2 of 2"),
        ("", "file is empty; expected a file of word vectors"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_damaged_text_is_refused(put, text, message, pack):
    with pytest.raises(ValueError, match=message):
        read_vectors(put(pack(text.encode())))


def test_a_file_too_short_for_its_header_is_refused_at_once(put):
    text = "3 2\na 1 2\nb 3 4\n"
    message = "line 1: expected at least 17 bytes, for 3 words of 2 numbers; found only 12 to the end"
    with pytest.raises(ValueError, match=message):
        read_vectors(put(text))
    with pytest.raises(ValueError, match="line 3: expected 3 words, as the first line promises"):
        read_vectors(put(gzip.compress(text.encode())))  # how long it is shows at its end


def test_many_lines_name_the_right_one(put):
    lines = [f"w{i} {i} 0.5" for i in range(200_000)]
    lines[150_000] = "w150000 15 0,5"
    with pytest.raises(ValueError, match="line 150001: expected a number in column 2; found '0,5'"):
        read_vectors(put("\n".join(lines)))


@pytest.mark.parametrize(
    "content, message",
    [
        (binary()[:-7], "file, byte 26: expected word 3 of 3, a space and 2 float32; found .* 4 bytes"),
        (binary() + b"x", "byte 37: expected the end of the file after 3 words; found b'x'"),
        (binary() + b"\n", r"byte 37: expected the end of the file after 3 words; found b'\\n'"),
        (binary().replace(b"b ", b" "), "byte 15: expected word 2 of 3, a space and 2 .*; found a space"),
        (binary(values=np.float32([[1, 2], [np.nan, 3], [4, 5]])), "byte 17: expected a finite .* found nan"),
        (binary(values=np.float32([[1, 2], [3, 4], [5, -np.inf]])), "byte 32: expected .* found -inf"),
        (b"2 3\n" + bytes(2**17), "byte 4: expected word 1 of 2.*; found no b' ' within 65536 bytes"),
        (b"three 2\n", "line 1: expected two integers, .*; found 'three 2'"),
    ],
)  # fmt: skip
def test_damaged_binary_is_refused(put, content, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(put(content), format="word2vec-binary")


@pytest.mark.parametrize("header", [f"{10**12} 3", f"3 {10**12}", f"{10**12} {10**6}", "3 -3", "-3 3"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("rows", [b"a 1 2 3\n", b"a " + bytes(12)])
def test_a_header_is_not_believed(put, header, pack, rows):
    path = put(pack(header.encode() + b"\n" + rows))
    tracemalloc.start()
    with pytest.raises(ValueError, match="line [12]: expected|byte .*: expected"):
        read_vectors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_a_line_without_end_is_refused(put, monkeypatch):
    monkeypatch.setattr(vector_streams, "LONGEST_LINE", 1 << 21)
    with pytest.raises(
        ValueError, match="byte 0: expected a line of text; found none that ends within 20971"
    ):
        read_vectors(put(gzip.compress(b"a" * (1 << 23))))


def test_a_damaged_gz_is_refused(put):
    packed = gzip.compress(ROWS.encode())
    for length in range(2, len(packed)):
        with pytest.raises(ValueError, match="file is damaged after byte|file is empty"):
            read_vectors(put(packed[:length]))
    wrong = packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:]
    with pytest.raises(ValueError, match="file is damaged after byte .*CRC"):
        read_vectors(put(wrong))
    with pytest.raises(ValueError, match="file is damaged after byte"):
        read_vectors(put(packed + b"more"))


def test_a_damaged_zip_is_refused(put):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("file.txt", ROWS)
    content = memory.getvalue()
    for length in range(4, len(content)):
        with pytest.raises(ValueError, match="file cannot be unpacked"):
            read_vectors(put(content[:length]))
    place = content.index(b"file.txt") + 10
    with pytest.raises(ValueError, match=r"file \(file.txt\) is damaged after byte"):
        read_vectors(put(content[:place] + b"\xff\xff" + content[place + 2 :]))


def test_a_file_that_is_not_there_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_vectors(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        read_vectors(tmp_path)


@pytest.mark.parametrize("vocabulary", [None, ["c", "missing"]])
@pytest.mark.parametrize("format", [None, "word2vec-binary"])
def test_a_binary_cut_anywhere_is_refused(put, vocabulary, format):
    content = binary()
    for length in range(len(content) - 1):  # the last newline may be missing
        with pytest.raises(ValueError, match="file"):
            read_vectors(put(content[:length]), vocabulary, format)
    assert len(read_vectors(put(content[:-1]), vocabulary).words) == (1 if vocabulary else 3)


@pytest.mark.parametrize("vocabulary", [None, ["bc", "unseen"]])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_model_cut_anywhere_is_refused(put, vocabulary, pack):
    content = pack(model())
    assert read_vectors(put(content), vocabulary).words[-1] == (vocabulary or ["北"])[-1]
    for length in range(len(content)):
        with pytest.raises(ValueError, match="file"):
            read_vectors(put(content[:length]), vocabulary)
    with pytest.raises(ValueError, match="expected the end of the file after the output matrix; found b'x'"):
        read_vectors(put(pack(model() + b"x")), vocabulary)


@pytest.mark.parametrize("kind", ["text", "binary", "model"])
def test_any_changed_byte_gives_vectors_or_a_message(put, rng, kind):
    content = {"text": b"3 2\n" + ROWS.encode(), "binary": binary(), "model": model()}[kind]
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a word may now be repeated
            try:
                data = read_vectors(put(bytes(changed)))
            except ValueError as error:
                assert "file" in str(error)
            else:
                assert len(data.words) == len(data.vectors) and np.isfinite(data.vectors).all()


# fastText's models


def test_a_model_by_hand(put):
    data = read_vectors(put(model()))
    assert data.words == ["a", "bc", "北"] and data.counts.tolist() == [7, 6, 5]
    assert data.counts.dtype == np.int64 and data.subwords[1:] == (2, 3)
    np.testing.assert_array_equal(data.subwords.table, np.arange(8).reshape(4, 2))
    for word, vector, own in zip(data.words, data.vectors, [[0, 1], [2, 3], [4, 5]], strict=True):
        np.testing.assert_allclose(vector, data.subwords.compose(word, own), rtol=1e-6)


def test_some_words_of_a_model_are_composed(put):
    whole = read_vectors(put(model()))
    data = read_vectors(put(model()), ["unseen", "北", "", "</s>", "a", "unseen"])
    assert data.words == ["a", "北", "", "unseen"] and data.counts.tolist() == [7, 5, 0, 0]
    expected = [*whole.vectors[[0, 2]], *map(whole.subwords.compose, ["", "unseen"])]
    np.testing.assert_allclose(data.vectors, expected, rtol=1e-6)
    assert data.subwords is None
    nothing = read_vectors(put(model(minn=3)), ["", "</s>"])  # no n-grams, and not in the dictionary
    assert nothing.words == [] and nothing.vectors.shape == (0, 2) and nothing.counts.shape == (0,)


def test_many_words_of_a_model_are_composed(tmp_path, rng):
    words, table = [f"w{i}" for i in range(3000)], rng.standard_normal((30, 8), dtype="float32")
    vectors = rng.standard_normal((3000, 8), dtype="float32")
    write_vectors(tmp_path / "file", words, vectors, "fasttext", Subwords(table, 2, 5))
    data = read_vectors(tmp_path / "file", [*words[::2], "unseen"])
    assert data.words == [*words[::2], "unseen"]
    np.testing.assert_allclose(data.vectors[:-1], vectors[::2], atol=1e-5)


def test_versions_and_models_without_ngrams(put):
    old, new = (read_vectors(put(model(version=version))) for version in (11, 12))
    np.testing.assert_array_equal(old.vectors, new.vectors)
    from_zero = read_vectors(put(model(minn=0, maxn=1)))  # "a" has the n-gram "a", without its marks
    np.testing.assert_array_equal(
        from_zero.vectors[0], ([0, 1] + from_zero.subwords.table[_fnv(b"a") % 4]) / 2
    )
    for changes in (NO_NGRAMS | {"table": VALUES[:0]}, NO_NGRAMS | {"bucket": 4}, {"minn": 4}):
        data = read_vectors(put(model(**changes)))
        assert data.subwords is None
        np.testing.assert_array_equal(data.vectors, [[0, 1], [2, 3], [4, 5]])
        same(read_vectors(put(model(**changes)), ["bc", "unseen"]), ["bc"], [[2, 3]])


def test_the_end_of_a_sentence_has_no_ngrams(put):
    data = read_vectors(put(model((b"</s>", b"b"))))
    np.testing.assert_array_equal(data.vectors[0], [0, 1])


def test_a_word_of_invalid_utf_8_is_composed_from_its_bytes(put):
    words = (b"caf\xe9", b"caf\xe8", b"d")
    with pytest.warns(UserWarning, match="repeats 1 words"):
        data = read_vectors(put(model(words)))
    assert data.words == ["caf\ufffd", "d"] and data.counts.tolist() == [7, 5]
    table, row = data.subwords.table, np.array([0, 1])
    pieces = [b"<c", b"<ca", b"ca", b"caf", b"af", b"af\xe9", b"f\xe9", b"f\xe9>", b"\xe9>"]
    expected = (table[[_fnv(piece) % 4 for piece in pieces]].sum(axis=0) + row) / 10
    np.testing.assert_allclose(data.vectors[0], expected, rtol=1e-6)
    np.testing.assert_allclose(data.vectors[1], data.subwords.compose("d", [4, 5]), rtol=1e-6)


def _fnv(data):
    state = 2166136261
    for byte in data:
        state = (state ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * 16777619 % 2**32
    return state


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"version": 13}, "byte 4: expected version 11 or 12 of fastText's files; found version 13"),
        ({"nlabels": 1, "nwords": 2, "model": 3}, "is a supervised fastText model with 1 labels"),
        ({"model": 3}, "is a supervised fastText model"),
        ({"pruned": 0}, "is a pruned fastText model, which is not supported"),
        ({"quantized": 1}, "is a quantized fastText model, which is not supported"),
        ({"quantized": 7}, "byte 1.*: expected the input matrix of 7 rows of 2 numbers.*; found the mark 7"),
        ({"rows": 8}, "expected the input matrix of 7 rows of 2 numbers, not quantized; found 8 rows of 2"),
        ({"columns": -1}, "found 7 rows of -1"),
        ({"size": 2}, "byte 64: expected as many words as entries, at least one; found 2 entries, 3 of them"),
        ({"size": -3, "nwords": -3}, "expected as many words as entries, at least one; found -3 entries"),
        ({"words": ()}, "expected as many words as entries, at least one; found 0 entries"),
        ({"words": (b"a", b"")}, "expected a word, its count and type 0; found b'', count 6, type 0"),
        ({"words": (b"a" * 2**17,)}, r"expected entry 1 of 1 .*; found no b'\\x00' within 65536 bytes"),
        ({"type": 1}, "byte 92: expected a word, its count and type 0; found b'a', count 7, type 1"),
        ({"dim": 0}, "byte 8: expected possible sizes of vectors and n-grams; found dim=0, bucket=4"),
        ({"dim": 2**30}, "expected possible sizes of vectors and n-grams; found dim=1073741824, bucket=4"),
        ({"bucket": 0}, "expected possible sizes of vectors and n-grams; found dim=2, bucket=0"),
        ({"bucket": -1}, "expected possible sizes of vectors and n-grams; found dim=2, bucket=-1"),
        ({"bucket": 2**31 - 1, "rows": 2**31 + 2}, "bytes of the input matrix; found only|rows .* of"),
        ({"own": np.float32([[0, 1], [np.nan, 3], [4, 5]])}, "expected a finite number; found nan"),
        ({"output_quantized": 1}, "expected the shape of the output matrix, .*; found 1 rows of 2, mark 1"),
        ({"output_rows": -1}, "expected the shape of the output matrix, not quantized; found -1 rows of 2"),
        ({"output_rows": 10**12}, "more bytes of the output matrix; found the end of the file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("vocabulary", [None, ["bc"]])
def test_damaged_and_other_models_are_refused(put, changes, message, pack, vocabulary):
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read_vectors(put(pack(model(**changes))), vocabulary)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_another_file_is_no_model(put):
    with pytest.raises(ValueError, match="byte 0: expected fastText's magic number .*; found b'a 0.'"):
        read_vectors(put(ROWS), format="fasttext")


@pytest.fixture(scope="module")
def trained():
    sentences = [["我", "爱", "北京", "天安门", "program", "programming"], ["北京", "é", "café", "the"]] * 5
    return FastText(sentences, vector_size=8, min_count=1, bucket=300, epochs=2, workers=1, seed=1)


def test_a_model_of_gensim_is_read(tmp_path, trained):
    save_facebook_model(trained, str(tmp_path / "model.bin"))
    data, theirs = read_vectors(tmp_path / "model.bin"), trained.wv
    assert data.words == theirs.index_to_key
    assert data.counts.tolist() == [theirs.get_vecattr(word, "count") for word in data.words]
    np.testing.assert_allclose(data.vectors, theirs.vectors, atol=1e-6)
    unseen = ["天安", "北京人", "programmed", "x"]
    for word in unseen:
        np.testing.assert_allclose(data.subwords.compose(word), theirs[word], atol=1e-6)
    some = read_vectors(tmp_path / "model.bin", [*unseen, "北京", "café"])
    np.testing.assert_allclose(some.vectors, theirs[some.words], atol=1e-6)
    assert set(some.words) == {*unseen, "北京", "café"}


def test_gensim_reads_a_model_that_is_written(tmp_path, vectors, subwords):
    path, words = tmp_path / "model.bin", [*WORDS[:-1], "a b\n"]
    write_vectors(path, words, vectors, subwords=subwords, counts=[9, 9, 5, 5, 5, 2, 0])
    theirs, ours = load_facebook_vectors(str(path)), read_vectors(path)
    assert theirs.index_to_key == ours.words == words
    assert ours.counts.tolist() == [9, 9, 5, 5, 5, 2, 1]
    for read in (theirs.vectors, ours.vectors):
        np.testing.assert_allclose(read, vectors, atol=1e-5)
    np.testing.assert_array_equal(ours.subwords.table, subwords.table)
    for word in ("unseen", "北京人", "x"):
        np.testing.assert_allclose(theirs[word], subwords.compose(word), atol=1e-6)
        np.testing.assert_allclose(theirs[word], ours.subwords.compose(word), atol=1e-6)


def test_a_model_without_ngrams_is_written(tmp_path, vectors):
    for name in ("model.bin", "model.bin.gz"):
        write_vectors(tmp_path / name, WORDS, vectors, "fasttext")
        data = read_vectors(tmp_path / name)
        same(data, WORDS, vectors)
        assert data.subwords is None and data.counts.tolist() == [1] * len(WORDS)
    np.testing.assert_array_equal(load_facebook_vectors(str(tmp_path / "model.bin")).vectors, vectors)


# Writing


def test_the_suffix_says_the_format(tmp_path, vectors, subwords):
    begins = {"a.txt": b"the 1.", "a.VEC": b"7 5\nthe 1.", "a.bin": b"7 5\nthe ", "a.vec.gz": b"\x1f\x8b"}
    for name, begin in begins.items():
        write_vectors(tmp_path / name, WORDS, vectors)
        assert (tmp_path / name).read_bytes().startswith(begin)
    write_vectors(tmp_path / "a.bin", WORDS, vectors, subwords=subwords)
    assert (tmp_path / "a.bin").read_bytes().startswith(MAGIC)
    for name in ("a.npy", "vec", "a.zip"):
        with pytest.raises(ValueError, match=f"path must end in .txt, .vec or .bin .*; received .*{name}"):
            write_vectors(tmp_path / name, WORDS, vectors)
    with pytest.raises(ValueError, match="format must be one of .*; received format='text'"):
        write_vectors(tmp_path / "a.txt", WORDS, vectors, "text")


def test_a_gz_has_the_same_bytes_every_time(tmp_path, vectors):
    for name in ("a.vec.gz", "b.vec.gz"):
        write_vectors(tmp_path / name, WORDS, vectors)
    assert (tmp_path / "a.vec.gz").read_bytes() == (tmp_path / "b.vec.gz").read_bytes()


@pytest.mark.parametrize(
    "format, words, message",
    [
        ("glove", ["a b", "c"], "words must hold no ' ' in format 'glove'; received words.0.='a b'"),
        ("word2vec", ["a", "b\n"], r"words must hold no '\\n' in format 'word2vec'; received words.1.='b"),
        ("word2vec-binary", ["a", " "], "words must hold no ' ' in format .word2vec-binary.; .*words.1"),
        ("fasttext", ["a", "b\0"], r"words must hold no '\\x00' in format 'fasttext'; received words.1.="),
        ("word2vec", ["a", ""], "words must not be empty; received words.1.=''"),
        ("word2vec", ["a", "a"], "words must all differ; received 'a' as words.0. and words.1."),
        ("word2vec", ["a", "\ud800"], "words.1. must be Unicode text; received a lone surrogate"),
        ("word2vec", [], "words must hold at least one word; received none"),
        ("word2vec", ["a"], r"vectors must be numbers of shape \(1, D\); received shape \(2, 3\), float32"),
    ],
)  # fmt: skip
def test_words_that_a_file_cannot_hold_are_refused(tmp_path, format, words, message):
    with pytest.raises(ValueError, match=message):
        write_vectors(tmp_path / "file", words, np.ones((2, 3), "float32"), format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["ab", ["a", 1]])
def test_words_are_strings(tmp_path, words):
    with pytest.raises(TypeError, match="must be a (collection of strings|string); received"):
        write_vectors(tmp_path / "file.vec", words, np.ones((2, 3)))


@pytest.mark.parametrize(
    "vectors, message",
    [
        (np.ones(2), r"vectors must be numbers of shape \(2, D\); received shape \(2,\), float64"),
        (np.ones((2, 0)), r"vectors must be numbers of shape \(2, D\); received shape \(2, 0\)"),
        (np.array([["1"], ["2"]]), r"received shape \(2, 1\), <U1"),
        (np.array([[1, 2], [3, np.nan]]), r"vectors must be finite as float32; received vectors\[1\]=.*nan"),
        (np.array([[1, 1e39], [3, 4]]), r"vectors must be finite as float32; received vectors\[0\]=.*inf"),
        (np.ones((2, 1)), r"vectors must have at least 2 columns in format 'glove'.*shape \(2, 1\)"),
    ],
)
def test_vectors_that_are_none_are_refused(tmp_path, vectors, message):
    with pytest.raises(ValueError, match=message):
        write_vectors(tmp_path / "file.txt", ["a", "b"], vectors)


@pytest.mark.parametrize(
    "table, min_n, max_n, message",
    [
        (np.ones((4, 3)), 3, 6, r"table must be numbers of shape \(buckets, 2\); received shape \(4, 3\)"),
        (np.ones((0, 2)), 3, 6, r"table must be numbers of shape \(buckets, 2\); received shape \(0, 2\)"),
        (np.full((4, 2), np.inf), 3, 6, "subwords.table must be finite as float32"),
        (np.ones((4, 2)), 0, 6, "min_n must be at least 1; received min_n=0"),
        (np.ones((4, 2)), 3, 2, "max_n must be at least 3; received max_n=2"),
        (np.full((4, 2), 3e38), 1, 6, "vectors must be small enough to be parted into float32 rows"),
    ],
)  # fmt: skip
def test_impossible_subwords_are_refused(tmp_path, table, min_n, max_n, message):
    subwords = Subwords(table, min_n, max_n)
    with pytest.raises(ValueError, match=message):
        write_vectors(tmp_path / "file.bin", ["a"], [[-3e38, 2]], subwords=subwords)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("counts", [[1], [1, -1], [1.5, 2]])
def test_impossible_counts_are_refused(tmp_path, counts):
    with pytest.raises(ValueError, match="counts must be 2 whole numbers from 0 up; received shape"):
        write_vectors(tmp_path / "file", ["a", "b"], np.ones((2, 2)), "fasttext", counts=counts)


@pytest.mark.parametrize("name", ["file.vec", "file.vec.gz"])
def test_writing_that_fails_leaves_the_old_file(tmp_path, monkeypatch, vectors, name):
    write_vectors(tmp_path / name, WORDS, vectors)
    before = (tmp_path / name).read_bytes()

    def failing(*arguments):
        yield b"7 5\n"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vector_files, "rows_written", failing)
    with pytest.raises(OSError, match="No space left"):
        write_vectors(tmp_path / name, WORDS, vectors + 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before

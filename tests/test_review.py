"""Tables for people: what is written is read back; what is wrong is refused by row and column."""

import pytest

from companion.review import filled, one_of, read_review, share, write_review

COLUMNS = {"id": filled, "text": filled, "confidence": share, "verdict": one_of("true", "false")}
ROWS = [("a", 'He said "no", then\nleft.', 0.25, "true"), ("b", "你好，世界", 1, "false")]


def test_what_is_written_is_read_back():
    rows = read_review(write_review(ROWS, COLUMNS), COLUMNS)
    assert [tuple(row.values()) for row in rows] == ROWS
    assert list(rows[0]) == list(COLUMNS) and isinstance(rows[1]["confidence"], float)
    assert read_review("id\r\na\r\n", {"id": str}) == [{"id": "a"}]
    assert read_review(write_review([], COLUMNS), COLUMNS) == []
    assert read_review("\ufeffid\r\n\r\na\r\n\r\n", {"id": str}) == [{"id": "a"}]  # as spreadsheets do
    assert read_review("id,n\r\n,\r\na,b\r\n, \r\n", {"id": filled, "n": str}) == [{"id": "a", "n": "b"}]


@pytest.mark.parametrize(
    "table, message",
    [
        ("", r"the columns must be \['id', .*received \[\]"),
        ("id,text,verdict,confidence\n", "the columns must be"),
        ('id,text,confidence,verdict\na,"b" c,1,true\n', "table must be a CSV: .* expected after"),
        ("id,text,confidence,verdict\na,b,.5\n", "row 1: 4 values expected; received 3"),
        ("id,text,confidence,verdict\na, ,.5,true\n", "row 1, text: a value expected"),
        ("id,text,confidence,verdict\na,b,1.5,true\n", "row 1, confidence: a number from 0 to 1 expected"),
        ("id,text,confidence,verdict\n,,,\na,b,nan,true\n", "row 2, confidence: a number"),
        ("id,text,confidence,verdict\na,b,sure,true\n", "row 1, confidence: a number"),
        ("id,text,confidence,verdict\na,b,1,yes\n", "row 1, verdict: one of true, false expected"),
        ("id,text,confidence,verdict\na,b,1,true\na,c,1,true\n", "row 2: each id must come once; 'a'"),
    ],
)
def test_a_bad_table_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        read_review(table, COLUMNS)


def test_a_row_of_another_length_is_not_written():
    with pytest.raises(ValueError, match="row 2: 4 values expected; received 1"):
        write_review([ROWS[0], ("b",)], COLUMNS)

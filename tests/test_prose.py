from inspect import cleandoc

import pytest

from companion import prose


def clean(doc):
    return prose.paragraphs(cleandoc(doc))


def test_numpy_style():
    doc = """
    empty_like(prototype, /, dtype=None,
        order='K')
    --

    Return a *new* array with the shape of ``prototype``.

    Parameters
    ----------
    prototype : array_like
        The shape and data-type of `prototype` define
        those of the result.
    order : {'C', 'F'}, optional
        Overrides the memory layout of the result.

    See Also
    --------
    ones_like : Return an array of ones with shape and type of input.

    Notes
    -----
    This function does *not* initialize the returned array [1]_.

    References
    ----------
    .. [1] A. Author, "A title with some words", 2001.

    Examples
    --------
    >>> np.empty_like(a)
    array([[-107, 0, 1]])

    The result depends on what memory held before.
    """
    assert clean(doc) == [
        "Return a new array with the shape of prototype.",
        "The shape and data-type of prototype define those of the result.",
        "Overrides the memory layout of the result.",
        "This function does not initialize the returned array.",
        "The result depends on what memory held before.",
    ]


def test_google_style_with_code():
    doc = """Applies dropout to the input, see [the guide](https://keras.io/guides).

    Args:
        rate: Float between 0 and 1. Fraction of the
            input units to drop.
        seed (int): A Python integer to use as random seed.

    Example:

    ```python
    layer = Dropout(rate=0.5) and some more plain words here
    ```

    Returns:
        A tensor with the same shape as the input.
    """
    assert clean(doc) == [
        "Applies dropout to the input, see the guide.",
        "Float between 0 and 1. Fraction of the input units to drop.",
        "A Python integer to use as random seed.",
        "A tensor with the same shape as the input.",
    ]


def test_restructured_text():
    doc = """Split a sentence with :class:`~nltk.Tokenizer` or :func:`split <nltk.split>`.

    .. note:: The result is a list of plain strings.

    .. code-block:: python

        words = split(sentence) for any sentence

        print(words)

    A literal block follows here::

        never(shown) to any reader

    =====  =====
    Name   Value of this name here
    =====  =====
    One    The first of all the numbers
    =====  =====

    :param sentence: The sentence that will be split.
    :type sentence: str
    - Bullets that are sentences stay as well.
    """
    assert clean(doc) == [
        "Split a sentence with nltk.Tokenizer or split.",
        "The result is a list of plain strings.",
        "A literal block follows here:",
        "The sentence that will be split.",
        "Bullets that are sentences stay as well.",
    ]


def test_addresses_and_tags_go():
    doc = "Written by someone <some.one@example.org> for www.example.org and <b>all</b> readers, see ftp://x.y/z."
    assert clean(doc) == ["Written by someone for and all readers, see"]


@pytest.mark.parametrize(
    "doc", ["", ">>> f(x)\n3", "x = {'a': 1}", "Deprecated.", "f(x) -> y\n\n    a b c d = e"]
)
def test_what_is_no_prose_gives_nothing(doc):
    assert prose.paragraphs(doc) == []


def test_short_and_symbolic_paragraphs_go():
    assert clean("Compute a sum of squares.\n\nToo few words.\n\na + b - c / d * e ** f % g of it") == [
        "Compute a sum of squares."
    ]


def test_sections():
    doc = "Summary.\n\nParameters\n----------\nx : int\n\nSee Also\n========\nf : g"
    assert prose.sections(doc) == [
        ("", ["Summary.", ""]),
        ("Parameters", ["x : int", ""]),
        ("See Also", ["f : g"]),
    ]


def test_an_unclosed_fence_and_deep_nesting_do_no_harm():
    assert clean("The first line of it.\n\n```\ncode that never ends and is long enough") == [
        "The first line of it."
    ]
    nested = "A list of many levels.\n\n" + "\n".join(
        " " * i + f"- level {i} of this list of levels" for i in range(50)
    )
    assert len(clean(nested)) == 51

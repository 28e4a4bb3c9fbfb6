"""Every string of a JSON text is found where it stands, and can be changed there, so that all else stays as it was."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rotation_lambda import secret_text
from rotation_lambda.errors import InvalidSecretError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def walk(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], str, bool]]:
    """Return each string of a value with its path and whether it is a key, in the order of the text."""
    match value:
        case str():
            return [(path, value, False)]
        case list():
            return [one for number, item in enumerate(value) for one in walk(item, (*path, number))]
        case dict():
            return [
                one for key, item in value.items() for one in [((*path, key), key, True), *walk(item, (*path, key))]
            ]
        case _:
            return []


@st.composite
def texts(draw: st.DrawFn, values: st.SearchStrategy[Any] = VALUES) -> str:
    separators = draw(st.sampled_from([None, (",", ":"), (" ,\t", "\r\n: ")]))
    return json.dumps(draw(values), ensure_ascii=draw(st.booleans()), separators=separators)


@hypothesis.given(texts())
def test_finds_every_string_with_its_path(text: str) -> None:
    found = list(secret_text.strings(text))
    assert [(one.path, one.value, one.is_key) for one in found] == walk(json.loads(text))
    for one in found:
        assert text[one.start :].startswith(one.token)
        assert json.loads(one.token) == one.value


@hypothesis.given(texts(st.lists(st.text(), min_size=1) | st.dictionaries(st.text(), st.text(), min_size=1)), st.data())
def test_changes_a_part_of_a_string_and_nothing_else(text: str, data: st.DataObject) -> None:
    found = [one for one in secret_text.strings(text) if not one.is_key]
    one = data.draw(st.sampled_from(found))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(one.value))] * 2)))
    new = data.draw(st.text(st.characters(exclude_categories=["Cs"])))
    changed = secret_text.splice(text, one.place([(start, end, new)]))
    [after] = [other for other in secret_text.strings(changed) if (other.path, other.is_key) == (one.path, False)]
    assert after.value == one.value[:start] + new + one.value[end:]
    behind = one.start + len(one.token)
    assert changed[: one.start] + changed[after.start + len(after.token) :] == text[: one.start] + text[behind:]


@pytest.mark.parametrize(
    ("token", "edit", "after"),
    [
        (r'"a\/b:\u00fcc"', (4, 5, 'ü"'), r'"a\/b:ü\"c"'),
        (r'"\ud83d\ude00b\\c"', (1, 2, "\\"), r'"\ud83d\ude00\\\\c"'),
        (r'"\uD83D\uDE00"', (0, 1, ""), '""'),
        ('"\U0001f600b"', (1, 2, "x"), '"\U0001f600x"'),
        (r'"\"\\\""', (1, 2, "-"), r'"\"-\""'),
        ('""', (0, 0, "new"), '"new"'),
    ],
)
def test_leaves_escapes_beside_a_change_as_they_were(token: str, edit: secret_text.Edit, after: str) -> None:
    [string] = secret_text.strings(token)
    assert secret_text.splice(token, string.place([edit])) == after


def test_makes_edits_in_the_order_of_the_text() -> None:
    assert secret_text.splice("abcdef", [(4, 5, "E"), (0, 0, "-"), (1, 3, "")]) == "-adEf"


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_reads_no_text_that_is_too_deep(start: str, end: str) -> None:
    """The path of each string is kept, so that 64 KiB of strings could take 64 MiB."""
    for depth in (0, 1, 100):
        assert secret_text.read(start * depth + '""' + end * depth) is not None
    with pytest.raises(InvalidSecretError, match="a text that is more than 100 levels deep"):
        secret_text.read(start * 101 + '""' + end * 101)


def test_a_hostile_text_takes_no_time() -> None:
    """Were a pattern to go back and forth, 64 KiB of this would take minutes, and this test its timeout."""
    for text in (
        '"' + "\\\\" * 30_000 + '"',
        '["",' + " " * 60_000 + '""]',
        '{"' + "a" * 60_000 + '"' + " " * 5 + ":1}",
    ):
        read: Any = json.loads(text)
        assert [one.value for one in secret_text.strings(text)] == [value for _, value, _ in walk(read)]

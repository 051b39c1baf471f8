"""Texts from anywhere, made fit for a line and for a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actp_supervise.service import shorten, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT, st.integers(1, 50))
def test_a_shortened_text_is_one_line_of_at_most_that_many_characters(text, most):
    line = shorten(text, most)
    assert len(line) <= most
    assert len(line.splitlines()) <= 1
    assert line == line.strip()


@given(st.text("ab \n", max_size=40), st.integers(20, 50))
def test_a_text_that_fits_is_shown_whole_on_one_line(text, most):
    if len(text) <= most:
        assert shorten(text, most) == " ".join(text.split())


@given(ANY_TEXT, st.integers(2, 50))
def test_of_a_long_text_both_ends_are_shown_and_what_is_left_out_is_counted(text, most):
    shown = shorten(text, most, ends=True)
    if len(text) <= most:
        assert shown == text
    else:
        assert shown.startswith(text[: most // 2])
        assert shown.endswith(text[len(text) - most // 2 :])
        assert f" [{len(text) - most} characters left out] " in shown


def test_only_the_beginning_of_a_huge_text_is_looked_at():
    assert shorten(" " * 10_000_000 + "late", 100) == ""


@given(ANY_TEXT)
def test_nothing_in_a_visible_text_steers_a_terminal_or_is_half_a_character(text):
    shown = visible(text)
    assert {unicodedata.category(c) for c in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert {unicodedata.bidirectional(c) for c in shown}.isdisjoint(
        {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    )
    shown.encode()


@pytest.mark.parametrize("code", [0x1B, 0x9B, 0x7F, 0x202E, 0x2066, 0x200F, 0x2028, 0x61C, 0xD800])
def test_what_could_steer_is_shown_by_its_number(code):
    number = f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    assert visible(f"a{chr(code)}b") == f"a{number}b"


def test_lines_and_tabs_stay_where_they_are_wanted():
    assert visible("a\n\tb\r", lines=True) == "a\n\tb\\x0d"
    assert visible("a\nb") == "a\\x0ab"


def test_text_in_any_language_stays_as_it_is():
    text = "ä ß 漢字 שלום مرحبا 👩‍🚀"
    assert visible(text) == text

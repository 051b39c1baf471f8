"""An error kept as text: what Python would have printed, without the frames."""

from __future__ import annotations

import gc
import traceback
import weakref

import pytest

from actp_supervise.errors import ErrorText, strip_tracebacks


def plain():
    return {}["absent"] or (1 / 0)


def with_a_cause():
    try:
        plain()
    except KeyError as error:
        raise ValueError("over\nseveral lines") from error


def with_a_context():
    try:
        with_a_cause()
    except ValueError:
        plain()


def without_its_context():
    try:
        plain()
    except KeyError:
        raise ValueError from None


def with_a_note():
    error = ValueError("noted")
    error.add_note("while it rained")
    raise error


def in_groups():
    errors = []
    for function in (with_a_context, without_its_context):
        try:
            function()
        except (KeyError, ValueError) as error:
            errors.append(error)
    raise ExceptionGroup("outer", [ExceptionGroup("inner", errors), OSError(2, "no such thing")])


async def never_begun():
    pass


def thrown_into_a_coroutine_that_had_not_begun():
    never_begun().throw(ValueError("early"))


@pytest.mark.parametrize(
    "function",
    [
        plain,
        with_a_cause,
        with_a_context,
        without_its_context,
        with_a_note,
        in_groups,
        thrown_into_a_coroutine_that_had_not_begun,
    ],
)
def test_the_text_is_what_python_prints(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (of any kind)
        function()
    error = caught.value
    printed = "".join(traceback.format_exception(error))
    text = ErrorText(error)
    strip_tracebacks(error)
    assert error.__traceback__ is None
    assert str(text) == printed
    assert str(text) == printed  # also when the error has been let go of


def test_it_keeps_no_variable_of_the_frames():
    class Burden:
        pass

    def crash():
        burden = Burden()
        alive.append(weakref.ref(burden))
        plain()

    alive = []
    try:
        crash()
    except KeyError as error:
        text = ErrorText(error)
        strip_tracebacks(error)
    gc.collect()
    assert alive[0]() is None
    assert "in crash" in str(text)

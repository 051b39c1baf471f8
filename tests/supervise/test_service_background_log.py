"""Log lines for a reader who may stop reading; the pipes are real, and so is the time."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from actp_supervise.service.background_log import BackgroundHandler, handler_for


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def log(handler, text):
    handler.handle(logging.LogRecord("x", logging.INFO, __file__, 1, text, None, None))


def test_lines_are_written_in_order_and_at_the_end_all_are(pipe):
    reader, writer = pipe
    handler = handler_for(writer)
    for number in range(100):
        log(handler, f"{number} ä\ud800")
    handler.flush()
    assert [reader.readline() for _ in range(100)] == [f"{n} ä\\ud800\n" for n in range(100)]


def test_while_nobody_reads_nobody_waits_and_what_is_lost_is_counted(pipe):
    reader, writer = pipe
    handler = BackgroundHandler(writer.fileno(), most=10)
    for number in range(500):
        log(handler, f"{number} {'x' * 1000}")
    handler.flush()
    numbers, lost = [], 0
    while len(numbers) + lost < 500:
        number, _, text = reader.readline().partition(" ")
        if text.startswith("x"):
            numbers.append(int(number))
        else:
            assert text == "lines of the log are lost, because nobody read it\n"
            lost += int(number)
    assert numbers == sorted(numbers)
    assert lost > 0
    log(handler, "read again")
    assert reader.readline() == "read again\n"


def test_a_reader_who_has_left_disturbs_nobody(pipe):
    reader, writer = pipe
    handler = BackgroundHandler(writer.fileno())
    reader.close()
    log(handler, "to nobody")
    handler.flush()
    assert "log" in [thread.name for thread in threading.enumerate()]


def test_a_file_is_written_at_once(tmp_path):
    with (tmp_path / "log").open("w") as file:
        assert type(handler_for(file)) is logging.StreamHandler

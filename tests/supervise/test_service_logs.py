"""Log lines: for people, for machines, and without secrets."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from actp_supervise.service import (
    configure_logging,
    log_context,
    log_what_nobody_catches,
    make_redactor,
)
from actp_supervise.service.log_file import LogFile


@pytest.fixture
def lines():
    """Configure logging as the daemon does; gives what was logged since, as lines."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    stream = io.StringIO()

    def configured(*, as_json):
        redact = make_redactor(["hunter2"])
        configure_logging(stream, redact=redact, as_json=as_json)
        return lambda: stream.getvalue().splitlines()

    yield configured
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.raiseExceptions = raises


logger = logging.getLogger("service.test")


def test_a_machine_gets_one_json_object_a_line(lines):
    written = lines(as_json=True)
    logger.info("Two\nlines, %s", "ärger", extra={"action": "tested", "count": 3, "part": (1.5,)})
    (line,) = written()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "service.test",
        "message": "Two\nlines, ärger",
        "action": "tested",
        "count": 3,
        "part": [1.5],
    }


def test_numbers_that_json_has_not_are_written_as_text(lines):
    written = lines(as_json=True)
    logger.info("late", extra={"seconds": float("nan")})
    assert json.loads(written()[0])["seconds"] == "nan"


@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_comes_with_its_traceback(lines, as_json):
    written = lines(as_json=as_json)
    try:
        raise ValueError("no such template")
    except ValueError:
        logger.exception("A task failed")
    text = "\n".join(written())
    assert "A task failed" in text
    assert "Traceback" in text
    assert "ValueError: no such template" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_is_written_wherever_it_stands(lines, as_json):
    written = lines(as_json=as_json)
    try:
        raise ValueError("401 for hunter2")
    except ValueError:
        logger.exception("key %s", "hunter2", extra={"header": {"x": ["Bearer hunter2"]}})
    logger.warning("found sk-ant-api03-AbC_dEf-123")
    text = "\n".join(written())
    assert "hunter2" not in text
    assert "AbC" not in text
    assert "[redacted]" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_of_what_is_too_long_to_be_read_the_ends_are_written(lines, as_json):
    written = lines(as_json=as_json)
    try:
        raise ValueError("hunter2" * 1_000_000)
    except ValueError as error:
        logger.exception("Failed: %s", error, extra={"fact": "z" * 1_000_000})
    text = "\n".join(written())
    assert len(text) < 100_000
    assert "Failed: " in text
    assert "ValueError: " in text
    assert "characters left out]" in text
    assert "hunter" not in text


def test_what_is_said_ten_times_a_second_is_written_once_a_minute(lines):
    written = lines(as_json=True)
    for _ in range(20):
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError:
            logging.getLogger("trio.serve_listeners").exception("accept returned EMFILE")
    (line,) = map(json.loads, written())
    assert line["message"] == "accept returned EMFILE"
    assert "error" not in line


def test_errors_in_threads_and_in_del_are_logged(lines, monkeypatch):
    class Careless:
        def __del__(self):
            raise ValueError("in del")

    def fail():
        raise ValueError("in a thread")

    for module, hook in ((sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, hook, getattr(module, hook))  # to have it back
    log_what_nobody_catches()
    written = lines(as_json=True)
    Careless()
    thread = threading.Thread(target=fail, name="background")
    thread.start()
    thread.join()
    in_del, in_thread = map(json.loads, written())
    assert in_del["action"] == "error_ignored"
    assert in_del["message"].endswith("Careless.__del__")
    assert in_del["error"].endswith("ValueError: in del")
    assert in_thread["message"] == "Thread background failed"
    assert in_thread["error"].endswith("ValueError: in a thread")


def test_what_is_too_short_for_a_secret_does_not_spoil_the_text():
    redact = make_redactor(["k", "", "abcd", "abcdefg"])
    assert redact("task abcdefgh, abcd") == "task [redacted]h, [redacted]"


def test_a_person_sees_time_level_and_agent(lines):
    written = lines(as_json=False)
    with log_context(agent_id="social", run="0123456789abcdef"):
        logger.warning("It waits")
    logger.info("It is over")
    first, second = written()
    assert first[8:] == " WARNING [social 0123456789ab] It waits"
    assert second[8:] == " INFO    It is over"


def test_what_others_write_cannot_steer_the_terminal(lines):
    written = lines(as_json=False)
    logger.info("\x1b[2J cleared \x9b31m")
    assert written()[0].endswith(r"\x1b[2J cleared \x9b31m")


async def test_lines_of_whatever_an_agent_starts_carry_its_fields(lines):
    written = lines(as_json=True)

    async def task():
        await trio.lowlevel.checkpoint()
        logger.info("in a task")
        await trio.to_thread.run_sync(logger.info, "in a thread")

    async with trio.open_nursery() as nursery:
        with log_context(agent_id="social"), log_context(run="r1"):
            nursery.start_soon(task)
        logger.info("beside it")
    entries = {entry["message"]: entry for entry in map(json.loads, written())}
    for message in ("in a task", "in a thread"):
        assert (entries[message]["agent_id"], entries[message]["run"]) == ("social", "r1")
    assert "agent_id" not in entries["beside it"]


def test_libraries_that_report_every_request_are_quiet(lines):
    written = lines(as_json=True)
    logging.getLogger("httpx2").info("HTTP Request: POST")
    assert written() == []


# A log in a file.


@pytest.fixture
def to_file(lines, tmp_path):
    """Configure logging to a file; gives the file, and what went to the stream in its place."""
    stream = io.StringIO()

    def configured(path=tmp_path / "worker.log"):
        redact = make_redactor(["hunter2"])
        configure_logging(stream, redact=redact, as_json=False, file=path)
        return path, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]

    yield configured
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            with suppress(OSError):  # as logging does at the end
                handler.close()


def messages(path):
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def test_a_log_file_gets_json_lines_without_secrets_and_the_stream_nothing(to_file):
    path, instead = to_file()
    logger.info("One of %s", "hunter2")
    assert messages(path) == ["One of [redacted]"]
    assert instead() == []


def test_a_log_file_that_is_there_is_continued(to_file, tmp_path):
    (tmp_path / "worker.log").write_text('{"message": "from before"}\n')
    path, _ = to_file()
    logger.info("now")
    assert messages(path) == ["from before", "now"]


def test_a_log_file_that_was_moved_away_is_begun_anew(to_file):
    path, instead = to_file()
    logger.info("old")
    moved = path.rename(path.with_suffix(".1"))
    logger.info("new")
    path.unlink()
    logger.info("newer")
    assert (messages(moved), messages(path), instead()) == (["old"], ["newer"], [])


def test_a_log_file_that_was_emptied_goes_on_from_its_beginning(to_file):
    path, _ = to_file()
    logger.info("old")
    with path.open("r+") as file:  # as copytruncate of logrotate does
        file.truncate(0)
    logger.info("new")
    assert messages(path) == ["new"]


def test_what_a_log_file_does_not_take_goes_to_the_stream_until_it_does_again(to_file):
    path, instead = to_file()
    folder = path.parent
    logger.info("fine")
    moved = folder.rename(folder.with_name("moved"))
    logger.info("lost")
    logger.info("lost too")
    moved.rename(folder)
    logger.info("fine again")
    failed, *lost = instead()
    assert failed["action"] == "log_file_failed"
    assert failed["message"].endswith("worker.log and goes here: No such file or directory")
    assert [line["message"] for line in lost] == ["lost", "lost too"]
    assert messages(path) == ["fine", "fine again"]


def test_a_full_disk_harms_nobody(to_file):
    _, instead = to_file(Path("/dev/full"))
    for number in range(2000):  # more than any buffer holds
        logger.info("line %d", number)
    failed, *lines = instead()
    assert failed["message"] == (
        "The log cannot be written to /dev/full and goes here: No space left on device"
    )
    assert [line["message"] for line in lines] == [f"line {n}" for n in range(2000)]


def test_a_log_file_that_cannot_be_opened_is_an_error_at_once(to_file, tmp_path):
    with pytest.raises(FileNotFoundError):
        to_file(tmp_path / "nowhere" / "worker.log")

"""Log lines: for people, for machines, and without secrets."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import stat
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
        labels, quiet = ("agent_id", "run"), ("chatty",)
        configure_logging(stream, redact=redact, as_json=as_json, labels=labels, quiet=quiet)
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


def test_a_field_cannot_pass_for_the_time_or_the_level_of_its_line(lines):
    written = lines(as_json=True)
    forged = {"time": "2020", "level": "critical", "logger": "app", "action": "tested"}
    with log_context(level="debug", time="2021"):
        logger.info("one", extra=forged)
    entry = json.loads(written()[0])
    assert (entry["level"], entry["logger"], entry["action"]) == ("info", "service.test", "tested")
    assert entry["time"].endswith("Z")


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


def test_a_person_sees_time_level_and_labels(lines):
    written = lines(as_json=False)
    with log_context(agent_id="social", run="0123456789abcdef"):
        logger.warning("It waits")
    logger.info("It is over")
    first, second = written()
    assert first[8:] == " WARNING [social 0123456789ab] It waits"
    assert second[8:] == " INFO    It is over"


STEERING = (
    *map(chr, (*range(32), 0x7F, *range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029)),
    *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    "\ud800",
)
"""What steers a terminal, or turns the direction of what it shows; and half a character."""


@pytest.mark.parametrize("as_json", [True, False])
def test_what_others_write_cannot_steer_the_terminal(lines, as_json):
    written = lines(as_json=as_json)
    evil = "".join(STEERING)
    try:
        raise ValueError(evil)
    except ValueError:
        logger.exception("goal: %s", evil, extra={"fact": evil, evil: 1, "deep": {evil: [evil]}})
    text = "\n".join(written())
    assert {c for c in STEERING if c in text} <= {"\n", "\t"}
    text.encode()


def test_who_reads_the_json_gets_the_text_as_it_was(lines):
    written = lines(as_json=True)
    logger.info("%s", "".join(STEERING), extra={"fact": "ärger\u202e"})
    (line,) = written()
    assert json.loads(line)["message"] == "".join(STEERING)
    assert json.loads(line)["fact"] == "ärger\u202e"


FORGED = "23:59:59 INFO    [content] All is well"


@pytest.mark.parametrize(
    "newline", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]
)
def test_a_newline_in_a_text_forges_no_line(lines, newline):
    written = lines(as_json=False)
    logger.info("goal: a%s%s", newline, FORGED, extra={"agent_id": f"x{newline}{FORGED}"})
    try:
        raise ValueError(f"b{newline}{FORGED}")
    except ValueError:
        logger.exception("It failed")
    first, *others = written()
    records = [line for line in others if not line.startswith("    ")]
    assert "INFO    [x" in first
    assert len(records) == 1
    assert records[0].endswith("It failed")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\x85", "\u2028"])
def test_a_newline_in_a_text_forges_no_line_of_json(lines, newline):
    written = lines(as_json=True)
    forged = json.dumps({"level": "critical", "message": "stopped"})
    logger.info("goal: a%s%s", newline, forged, extra={"fact": newline + forged})
    (line,) = written()
    assert json.loads(line)["level"] == "info"


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
    logging.getLogger("chatty").info("HTTP Request: POST")
    logging.getLogger("chatty").setLevel(logging.NOTSET)
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


# A log in a file that others would like to read, or to have written elsewhere.


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def careless():
    """A umask that lets everybody do everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_log_file_can_be_read_by_its_user_alone(to_file, careless):
    path, _ = to_file()
    logger.info("old")
    assert mode(path) == 0o600
    path.rename(path.with_suffix(".1"))
    logger.info("new")
    assert mode(path) == 0o600


def test_a_log_file_that_is_there_keeps_the_mode_that_its_owner_chose(to_file, tmp_path):
    path = tmp_path / "worker.log"
    path.touch()
    path.chmod(0o640)
    to_file()
    assert mode(path) == 0o640


def test_our_own_links_are_followed(to_file, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "real" / "worker.log").symlink_to(tmp_path / "real" / ".." / "elsewhere.log")
    to_file(tmp_path / "folder" / "worker.log")
    logger.info("kept")
    assert messages(tmp_path / "elsewhere.log") == ["kept"]


def test_links_in_a_circle_are_an_error(to_file, tmp_path):
    (tmp_path / "worker.log").symlink_to("worker.log")
    with pytest.raises(OSError, match="symbolic links"):
        to_file()


def test_a_second_name_of_a_file_is_not_written_to(to_file, tmp_path):
    victim = tmp_path / "authorized_keys"
    victim.write_text("ssh-ed25519 ...\n")
    (tmp_path / "worker.log").hardlink_to(victim)
    with pytest.raises(PermissionError, match="second name"):
        to_file()
    assert victim.read_text() == "ssh-ed25519 ...\n"


def test_a_fifo_in_place_of_the_file_is_refused_and_holds_nothing_up(to_file, tmp_path):
    os.mkfifo(tmp_path / "worker.log")
    with pytest.raises(OSError, match=r"No such device|no file"):
        to_file()


def test_a_folder_in_place_of_the_file_is_refused(to_file, tmp_path):
    (tmp_path / "worker.log").mkdir()
    with pytest.raises(IsADirectoryError):
        to_file()


NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can lay another user's links")


@pytest.fixture
def theirs(tmp_path):
    """A folder that another user may write to, as may be somewhere under /tmp."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


@as_root
def test_a_link_that_another_user_laid_is_not_followed(to_file, theirs, tmp_path):
    victim = tmp_path / "crontab"
    path = theirs / "worker.log"
    path.symlink_to(victim)
    os.lchown(path, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"belongs to another user .uid {NOBODY}"):
        to_file(path)
    assert not victim.exists()


@as_root
def test_a_folder_on_the_way_that_another_user_replaced_by_a_link_is_not_entered(
    to_file, theirs, tmp_path
):
    (tmp_path / "etc").mkdir()
    (theirs / "logs").symlink_to(tmp_path / "etc")
    os.lchown(theirs / "logs", NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="another user"):
        to_file(theirs / "logs" / "worker.log")
    assert list((tmp_path / "etc").iterdir()) == []


@as_root
def test_a_file_that_another_user_laid_ready_to_read_is_not_written_to(to_file, theirs):
    path = theirs / "worker.log"
    path.touch(mode=0o666)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="another user"):
        to_file(path)
    assert path.read_text() == ""


@as_root
def test_a_link_laid_while_the_log_is_rotated_gets_no_line(to_file, theirs, tmp_path):
    path, instead = to_file(theirs / "worker.log")
    logger.info("before")
    moved = path.rename(theirs / "worker.log.1")
    victim = tmp_path / "authorized_keys"
    path.symlink_to(victim)
    os.lchown(path, NOBODY, NOBODY)
    logger.info("goal: ssh-ed25519 ...")
    assert not victim.exists()
    failed, line = instead()
    assert "belongs to another user" in failed["message"]
    assert line["message"] == "goal: ssh-ed25519 ..."
    path.unlink()
    logger.info("after")
    assert (messages(moved), messages(path)) == (["before"], ["after"])


def test_a_log_file_in_a_folder_that_may_be_entered_and_not_listed_is_fine(to_file, tmp_path):
    (tmp_path / "dark").mkdir()
    (tmp_path / "dark" / "inner").mkdir()
    (tmp_path / "dark").chmod(0o311)
    path, _ = to_file(tmp_path / "dark" / "inner" / "worker.log")
    logger.info("kept")
    assert messages(path) == ["kept"]


def test_half_a_character_does_not_cost_the_line_of_a_file(to_file):
    path, instead = to_file()
    logger.info("half \ud800")
    assert messages(path) == ["half \ud800"]
    assert instead() == []

"""What a process writes: lines, to whom they are handed, and when."""

from __future__ import annotations

import errno
import itertools
import logging

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from processes import is_alive
from programs import Lines, python, sh

from actp_supervise import Restart, open_supervisor
from actp_supervise.process import MAX_LINE, ProcessExited
from actp_supervise.process.output import Lines as LineCutter


async def test_output_and_errors_come_line_by_line_and_in_order():
    lines = Lines()

    await sh("echo one; echo two >&2; printf 'three\\r\\n\\nfour'", on_output=lines)()

    assert lines == ["one", "two", "three", "", "four"]


async def test_output_is_handed_on_while_the_process_runs():
    lines = Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sh("echo up; sleep 1000", on_output=lines))
        await lines.until(1)
        nursery.cancel_scope.cancel()

    assert lines == ["up"]


async def test_output_without_a_newline_is_handed_on_in_bounded_pieces():
    lines = Lines()
    length = 3 * MAX_LINE + 5

    await python(f"print('x' * {length}); print('y')", on_output=lines)()

    assert [len(line) for line in lines] == [MAX_LINE, MAX_LINE, MAX_LINE, 5, 1]


async def test_a_line_of_exactly_the_bound_is_one_line():
    lines = Lines()

    await python(f"print('x' * {MAX_LINE}); print('y')", on_output=lines)()

    assert [len(line) for line in lines] == [MAX_LINE, 1]


async def test_what_is_not_utf_8_is_replaced_and_split_characters_are_not():
    lines = Lines()
    script = (
        "import os, time\n"
        "for byte in b'caf\\xc3\\xa9 \\xff\\n':\n"
        "    os.write(1, bytes([byte]))\n"
        "    time.sleep(0.01)"
    )

    await python(script, on_output=lines)()

    assert lines == ["caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{REPLACEMENT CHARACTER}"]


async def test_a_character_that_is_cut_off_at_the_end_is_replaced():
    lines = Lines()

    await sh("printf 'caf\\303'", on_output=lines)()

    assert lines == ["caf\N{REPLACEMENT CHARACTER}"]


async def test_a_slow_reader_slows_the_process_and_loses_nothing(tmp_path):
    """The process gets no further than the pipe lets it while its first line is looked at."""
    lines = []
    release = trio.Event()
    progress = tmp_path / "progress"

    async def on_output(line):
        await release.wait()
        lines.append(line)

    script = (
        "import pathlib\n"
        "for i in range(200):\n"
        "    print(i, 'x' * 2000)\n"
        f"    pathlib.Path({str(progress)!r}).write_text(str(i))"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(python(script, on_output=on_output))
        with trio.fail_after(60):
            reached = ""
            while not reached or reached != progress.read_text():
                reached = progress.read_text() if progress.exists() else ""
                await trio.sleep(0.2)
        assert 0 < int(reached) < 150
        release.set()

    assert [int(line.split()[0]) for line in lines] == list(range(200))


async def test_an_error_of_on_output_is_a_crash_and_ends_the_process():
    lines = Lines()

    def on_output(line):
        lines(line)
        raise ValueError("bad line")

    with pytest.raises(ValueError, match="bad line"):
        await sh("echo $$; sleep 1000", on_output=on_output)()

    assert not is_alive(int(lines[0]))


async def test_a_grandchild_that_holds_the_output_open_does_not_delay_the_end():
    lines = Lines()
    script = (
        "import subprocess, sys\n"
        "process = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(process.pid); print('last')"
    )

    with trio.fail_after(60):
        await python(script, on_output=lines)()

    assert lines[1:] == ["last"]


async def test_a_grandchild_that_floods_the_output_does_not_delay_the_end():
    script = "import subprocess; subprocess.Popen(['yes'], start_new_session=True)"

    with trio.fail_after(20):
        await python(script, on_output=Lines())()


async def test_a_flood_of_output_is_handed_on_whole():
    count = 0

    def on_output(line):
        nonlocal count
        count += 1

    await python("for i in range(100_000): print(i)", on_output=on_output)()

    assert count == 100_000


async def test_what_it_has_written_is_handed_on_when_it_is_killed():
    lines = Lines()

    with pytest.raises(ProcessExited):
        await python("print('last'); import os; os.kill(os.getpid(), 9)", on_output=lines)()

    assert lines == ["last"]


async def test_a_process_may_close_its_output_and_go_on():
    lines = Lines()
    ended = []

    async with open_supervisor() as supervisor:
        script = "import os, time; print('up'); os.close(1); os.close(2); time.sleep(1000)"
        supervisor.start_soon(python(script, on_output=lines), name="c", shutdown_timeout=5.0)
        await lines.until(1)
        await trio.sleep(0.1)
        ended.append(supervisor["c"].state)
        await supervisor.shutdown()

    assert ended == ["running"]


# Lines.


async def test_lines_of_progress_come_as_they_are_written():
    lines = Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sh("printf '10%%\\r20%%\\r'; sleep 1000", on_output=lines))
        await lines.until(2)
        nursery.cancel_scope.cancel()

    assert lines == ["10%", "20%"]


async def test_a_carriage_return_at_the_start_of_a_line_makes_no_empty_line():
    lines = Lines()

    await sh("printf '\\r 10%%\\r 20%%\\n\\nend\\r\\r\\n'", on_output=lines)()

    assert lines == [" 10%", " 20%", "", "end"]


@given(text=st.text(alphabet="ab\r\n"), cuts=st.lists(st.integers(0, 30)))
def test_lines_are_the_same_however_the_output_is_cut_into_pieces(text, cuts):
    whole, pieces = LineCutter(), LineCutter()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]

    cut = [line for a, b in itertools.pairwise(bounds) for line in pieces.cut(text[a:b])]

    assert cut + pieces.rest() == whole.cut(text) + whole.rest()


# Standard error.


async def test_standard_error_may_be_taken_apart():
    output, errors = Lines(), Lines()

    await sh("echo one; echo two >&2; echo three", on_output=output, on_stderr=errors)()

    assert (output, errors) == (["one", "three"], ["two"])


async def test_an_error_message_comes_after_the_output_that_was_written_before_it():
    for _ in range(20):
        both = Lines()
        await sh("echo one; echo two >&2", on_output=both, on_stderr=both)()
        assert both == ["one", "two"]


async def test_a_slow_taker_of_errors_slows_the_process_and_loses_nothing():
    errors = []

    async def on_stderr(line):
        await trio.sleep(0.001)
        errors.append(int(line.split()[0]))

    script = "import sys\nfor i in range(200): print(i, 'x' * 2000, file=sys.stderr)"
    await python(script, on_stderr=on_stderr)()

    assert errors == list(range(200))


# The log.


async def test_output_is_logged_where_nobody_takes_it(caplog):
    caplog.set_level("INFO", logger="actp_supervise")

    await sh("echo hello")()

    assert "/bin/sh: hello" in caplog.messages


async def test_a_line_in_the_log_names_its_child_and_its_stream(caplog):
    caplog.set_level("INFO", logger="actp_supervise")
    async with open_supervisor(name="root") as supervisor:
        for name in ("alpha", "beta"):
            script = f"echo one of {name}; echo two of {name} >&2"
            supervisor.start_soon(sh(script), name=name, restart=Restart.TRANSIENT)

    lines = [line for line in caplog.records if getattr(line, "action", "") == "process_output"]
    assert sorted((line.getMessage(), line.path, line.stream) for line in lines) == [
        ("root/alpha (stderr): two of alpha", "root/alpha", "stderr"),
        ("root/alpha: one of alpha", "root/alpha", "stdout"),
        ("root/beta (stderr): two of beta", "root/beta", "stderr"),
        ("root/beta: one of beta", "root/beta", "stdout"),
    ]


async def test_a_log_that_cannot_be_written_does_not_end_the_process():
    """Supervisor's issue 629: a full disk took all programs with it."""

    def filter_(record):
        raise OSError(errno.ENOSPC, "No space left on device")

    logger = logging.getLogger("actp_supervise")
    logger.addFilter(filter_)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        await sh("echo one; sleep 0.1; echo two")()
    finally:
        logger.setLevel(level)
        logger.removeFilter(filter_)


async def test_what_is_not_taken_is_logged(caplog):
    caplog.set_level("INFO", logger="actp_supervise")
    errors = Lines()

    await sh("echo one; echo two >&2", on_stderr=errors)()

    assert errors == ["two"]
    assert [line for line in caplog.messages if "/bin/sh" in line] == ["/bin/sh: one"]

"""What a process is given, and what `process_child` refuses."""

from __future__ import annotations

import fcntl
import grp
import math
import os
import pwd
import resource
import shutil
import signal
import socket
import sys

import pytest
from programs import Lines, python, sh

from actp_supervise import open_supervisor
from actp_supervise.process import ProcessNotStarted, process_child

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
NOBODY = pwd.getpwnam("nobody")


async def said(script, **options):
    """Run a script of the shell, and return the lines that it writes."""
    lines = Lines()
    await sh(script, on_output=lines, **options)()
    return list(lines)


async def why_not_started(script="true", **options):
    """Return the one line that says why a script of the shell could not be run."""
    with pytest.raises(ProcessNotStarted) as caught:
        await sh(script, **options)()
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is refused at the call.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"argv": "ls -l"}, TypeError, "argv must be a sequence of arguments, not one string"),
        ({"argv": b"ls"}, TypeError, "argv must be a sequence of arguments, not one string"),
        ({"argv": {"ls"}}, TypeError, "argv must be a sequence of arguments, not one set"),
        ({"argv": []}, ValueError, "argv must name a program"),
        ({"argv": [""]}, ValueError, r"argv\[0\] must not be empty"),
        ({"argv": ["ls", 1]}, TypeError, r"argv\[1\] must be text or a path, not of type int"),
        ({"argv": ["ls", b"x"]}, TypeError, r"argv\[1\] must be text or a path, not of type bytes"),
        ({"argv": ["ls", None]}, TypeError, r"argv\[1\] must be text"),
        ({"argv": ["ls", "a\0b"]}, ValueError, r"argv\[1\] must not contain a NUL"),
        ({"argv": ["ls", "\ud800"]}, ValueError, r"argv\[1\] has characters"),
        ({"on_output": "x"}, TypeError, "on_output must be a function, not 'x'"),
        ({"on_stderr": 3}, TypeError, "on_stderr must be a function, not 3"),
        ({"on_status": 3}, TypeError, "on_status must be a function, not 3"),
        ({"ready_when": 5.0}, TypeError, "ready_when must be a function, not 5.0"),
        ({"ready_when": print, "notify": True}, ValueError, "ready_when must not be given with"),
        ({"notify": 1}, TypeError, "notify must be True or False, not 1"),
        ({"notify": "no"}, TypeError, "notify must be True or False, not 'no'"),
        ({"stop_group": None}, TypeError, "stop_group must be True or False, not None"),
        ({"ready_timeout": "90"}, TypeError, "ready_timeout must be a number of seconds"),
        ({"ready_timeout": None}, TypeError, "ready_timeout must be a number of seconds"),
        ({"ready_timeout": True}, TypeError, "ready_timeout must be a number of seconds"),
        ({"ready_timeout": 0}, ValueError, "ready_timeout must be a positive number .* not 0"),
        ({"ready_timeout": -1.0}, ValueError, "ready_timeout must be a positive number"),
        ({"ready_timeout": math.nan}, ValueError, "ready_timeout must be a positive number"),
        ({"stop_signal": "SIGTERM"}, TypeError, "stop_signal must be a signal such as .* not 'SIG"),
        ({"stop_signal": None}, TypeError, "stop_signal must be a signal such as"),
        ({"stop_signal": True}, TypeError, "stop_signal must be a signal such as"),
        ({"stop_signal": 15.0}, TypeError, "stop_signal must be a signal such as"),
        ({"stop_signal": 0}, ValueError, "stop_signal must be a signal such as .* not 0"),
        ({"stop_signal": 9999}, ValueError, "stop_signal must be a signal such as .* not 9999"),
        ({"stop_signal": -15}, ValueError, "stop_signal must be a signal such as .* not -15"),
        ({"exit_codes": 0}, TypeError, "exit_codes must be a set of exit statuses, not 0"),
        ({"exit_codes": "0"}, TypeError, "exit_codes must be a set of exit statuses, not '0'"),
        ({"exit_codes": ["0"]}, TypeError, "exit_codes: each of them must be a whole number"),
        ({"exit_codes": [True]}, TypeError, "exit_codes: each of them must be a whole number"),
        ({"exit_codes": [256]}, ValueError, "exit_codes: each of them must be a number from 0 to"),
        ({"exit_codes": [-999]}, ValueError, "exit_codes: the negative of one .* not 999"),
        ({"stdin": "file"}, TypeError, "stdin must be a whole number, not 'file'"),
        ({"stdin": -1}, ValueError, "stdin must be a number from 0, not -1"),
        ({"stdout": "file"}, TypeError, "stdout must be a whole number, not 'file'"),
        (
            {"stdout": 1, "on_output": print},
            ValueError,
            "on_output must not be given with stdout: its output goes there",
        ),
        ({"stdin": False}, TypeError, "stdin must be a whole number, not False"),
        ({"pass_fds": 3}, TypeError, "pass_fds must be a list of descriptors, not 3"),
        ({"pass_fds": "3"}, TypeError, "pass_fds must be a list of descriptors, not '3'"),
        ({"pass_fds": [1]}, ValueError, "pass_fds: each of them must be a number from 3, not 1"),
        ({"pass_fds": ["3"]}, TypeError, "pass_fds: each of them must be a whole number"),
        ({"pass_fds": range(3, 300)}, ValueError, "pass_fds must be at most 236, not 297"),
        ({"env": "A=B"}, TypeError, "env must be a mapping, not of type str"),
        ({"env": ["A"]}, TypeError, "env must be a mapping, not of type list"),
        ({"env": {"A": 1}}, TypeError, r"env\['A'\] must be text or None, not of type int"),
        ({"env": {"A": b"x"}}, TypeError, r"env\['A'\] must be text or None, not of type bytes"),
        ({"env": {1: "A"}}, TypeError, "env: the name of a variable must be text, not 1"),
        ({"env": {"A=B": "x"}}, ValueError, "env: the name of a variable must not be 'A=B'"),
        ({"env": {"": "x"}}, ValueError, "env: the name of a variable must not be ''"),
        ({"env": {"A\0": "x"}}, ValueError, "env: the name .* must not contain a NUL"),
        ({"env": {"A": "x\0"}}, ValueError, r"env\['A'\] must not contain a NUL"),
        ({"cwd": 3.5}, TypeError, "cwd must be text or a path, not of type float"),
        ({"cwd": b"/"}, TypeError, "cwd must be text or a path, not of type bytes"),
        ({"cwd": ""}, ValueError, "cwd must not be empty"),
        ({"cwd": "/\0"}, ValueError, "cwd must not contain a NUL"),
        ({"user": 1.0}, TypeError, "user must be a name or a number, not 1.0"),
        ({"user": True}, TypeError, "user must be a name or a number, not True"),
        ({"user": ""}, ValueError, "user must not be empty"),
        ({"user": -1}, ValueError, "user must be a number from 0 to .* not -1"),
        ({"group": b"x"}, TypeError, "group must be a name or a number"),
        ({"group": 2**32}, ValueError, "group must be a number from 0 to"),
        ({"umask": "022"}, TypeError, "umask must be a whole number, not '022'"),
        ({"umask": 0o1000}, ValueError, "umask must be a number from 0 to 511, not 512"),
        ({"umask": True}, TypeError, "umask must be a whole number, not True"),
        ({"nice": 20}, ValueError, "nice must be a number from -20 to 19, not 20"),
        ({"nice": 1.5}, TypeError, "nice must be a whole number, not 1.5"),
        ({"limits": [1]}, TypeError, r"limits must be a mapping, not \[1\]"),
        ({"limits": {"NOFILE": 1}}, TypeError, "limits: each must be one of resource.RLIMIT_"),
        (
            {"limits": {999: 1}},
            ValueError,
            "limits: each must be one of resource.RLIMIT_.* not 999",
        ),
        ({"limits": {resource.RLIMIT_CORE: "1"}}, TypeError, r"limits\[RLIMIT_CORE\] must be"),
        ({"limits": {resource.RLIMIT_CORE: (1,)}}, TypeError, r"limits\[RLIMIT_CORE\] must be"),
        ({"limits": {resource.RLIMIT_CORE: True}}, TypeError, r"limits\[RLIMIT_CORE\] must be"),
        ({"limits": {resource.RLIMIT_CORE: -7}}, ValueError, r"limits\[RLIMIT_CORE\] must be"),
        ({"limits": {resource.RLIMIT_CORE: (2, 1)}}, ValueError, "soft limit must not be above"),
        (
            {"limits": {resource.RLIMIT_CORE: (resource.RLIM_INFINITY, 1)}},
            ValueError,
            "soft limit must not be above",
        ),
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_at_the_call(options, error, message):
    with pytest.raises(error, match=message):
        process_child(options.pop("argv", ["true"]), **options)


@pytest.mark.parametrize("options", [{"argv": ["x", "my secret\0"]}, {"env": {"A": "my secret\0"}}])
def test_what_may_be_secret_is_not_shown_when_it_is_refused(options):
    with pytest.raises(ValueError, match="NUL") as caught:
        process_child(options.pop("argv", ["true"]), **options)

    assert "my secret" not in str(caught.value)


async def test_what_is_changed_after_the_call_changes_nothing():
    lines = Lines()
    argv, env, codes = ["/bin/sh", "-c", "echo $A; exit 3"], {"A": "given"}, [3]
    child = process_child(argv, env=env, exit_codes=codes, on_output=lines)
    argv[2], env["A"], codes[0] = "false", "changed", 0

    await child()

    assert lines == ["given"]


# Its input and other descriptors.


@pytest.fixture
def our_input():
    """Something for this process to read, for the time of a test."""
    before = os.dup(0)
    read_end, write_end = os.pipe()
    os.dup2(read_end, 0)
    os.write(write_end, b"ours\n")
    for fd in (read_end, write_end):
        os.close(fd)
    yield
    os.dup2(before, 0)
    os.close(before)


async def test_a_socket_may_be_its_input_and_its_way_to_answer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"question\n")
        await sh("read line; echo got $line >&0", stdin=theirs.fileno())()
        assert ours.recv(100) == b"got question\n"
        theirs.send(b"")  # it is still the caller's


async def test_output_may_go_to_a_descriptor_with_the_errors_apart():
    reading, writing = os.pipe()
    errors = Lines()

    await sh("echo out; echo err >&2", stdout=writing, on_stderr=errors)()

    os.close(writing)
    with os.fdopen(reading) as output:
        assert output.read() == "out\n"
    assert errors == ["err"]


async def test_input_is_empty(our_input):
    lines = Lines()

    await sh("cat; echo read", on_output=lines)()

    assert lines == ["read"]


async def test_descriptors_are_passed_on_under_their_numbers_and_no_others():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as other:
        script = (
            "import os, socket\n"
            f"print(socket.socket(fileno=os.dup({listener.fileno()})).getsockname()[1])\n"
            "for number in range(1000):\n"
            "    try: print(number, os.get_inheritable(number))\n"
            "    except OSError: pass"
        )
        numbers = sorted([listener.fileno(), other.fileno()])
        lines = Lines()
        await python(script, pass_fds=numbers, on_output=lines)()

        port = listener.getsockname()[1]
        assert lines == [f"{port}", *(f"{number} True" for number in (0, 1, 2, *numbers))]


async def test_many_descriptors_may_be_passed_on_and_with_high_numbers():
    reading, writing = os.pipe()
    numbers = [os.dup(writing) for _ in range(100)]
    numbers.append(fcntl.fcntl(writing, fcntl.F_DUPFD, 900))
    script = f"import os\nfor number in {numbers}: os.write(number, b'x')"

    await python(script, pass_fds=numbers)()

    assert os.read(reading, 1000) == b"x" * 101
    for number in (reading, writing, *numbers):
        os.close(number)


@pytest.mark.parametrize("option", ["stdin", "pass_fds"])
async def test_a_descriptor_that_is_closed_is_a_clear_error(option):
    number = os.dup(0)
    os.close(number)

    message = await why_not_started(**{option: number if option == "stdin" else [number]})

    assert message == f"cannot start '/bin/sh' with descriptor {number}: Bad file descriptor"


# Its environment and directory.


async def test_variables_are_added_to_those_of_this_process(monkeypatch):
    monkeypatch.setenv("OURS", "inherited")
    monkeypatch.setenv("CHANGED", "ours")
    monkeypatch.setenv("REMOVED", "ours")

    env = {"NEW": "new", "CHANGED": "theirs", "REMOVED": None, "ABSENT": None}
    lines = await said("echo $OURS $NEW $CHANGED; echo ${REMOVED-no} ${ABSENT-no}", env=env)

    assert lines == ["inherited new theirs", "no no"]


async def test_an_environment_may_be_given_whole():
    env = {**dict.fromkeys(os.environ), "A": "1", "PATH": os.environ["PATH"]}

    lines = await said("env", env={**env, "PYTHONFAULTHANDLER": None})

    assert {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "A",
        "PATH",
    }


@pytest.mark.parametrize(
    "env", [{}, {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2"}]
)
async def test_what_systemd_told_this_process_is_kept_from_it(monkeypatch, env):
    """Also where it is given, as by ``env={**os.environ}``."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "ours")

    assert await said("echo $NOTIFY_SOCKET$WATCHDOG_USEC$WATCHDOG_PID", env=env) == [""]


async def test_a_python_is_told_to_write_its_stack_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("PYTHONFAULTHANDLER", raising=False)
    script = "echo ${PYTHONFAULTHANDLER-unset}"

    assert await said(script) == ["1"]
    assert await said(script, env={"PYTHONFAULTHANDLER": ""}) == [""]
    assert await said(script, env={"PYTHONFAULTHANDLER": None}) == ["unset"]
    monkeypatch.setenv("PYTHONFAULTHANDLER", "")
    assert await said(script) == [""]


async def test_the_program_is_looked_for_on_the_path_that_it_gets(tmp_path):
    for name, text in (("first", "no program"), ("second", "#!/bin/sh\necho second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prog").write_text(text)
    (tmp_path / "second" / "prog").chmod(0o755)
    lines = Lines()

    path = f"{tmp_path}/none:{tmp_path}/first:{tmp_path}/second:/bin:/usr/bin"
    await process_child(["prog"], env={"PATH": path}, on_output=lines)()

    assert lines == ["second"]


async def test_what_is_no_utf_8_is_passed_on_as_it_is():
    raw = os.fsdecode(b"caf\xe9")
    lines = Lines()

    script = "import os, sys; print(ascii(sys.argv[1]), ascii(os.environ['A']))"
    await process_child([sys.executable, "-c", script, raw], env={"A": raw}, on_output=lines)()

    assert lines == [r"'caf\udce9' 'caf\udce9'"]


async def test_its_directory_is_the_given_one_or_that_of_this_process_now(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    async with open_supervisor() as supervisor:
        await supervisor.start(sh("sleep 1000"))  # so that its keeper is there before
        monkeypatch.chdir(tmp_path)
        assert await said("pwd") == [str(tmp_path)]
        assert await said("pwd", cwd="inner") == [str(tmp_path / "inner")]
        assert await said("pwd", cwd=tmp_path / "inner") == [str(tmp_path / "inner")]
        await supervisor.shutdown()


@pytest.mark.parametrize("cwd", ["missing", "file"])
async def test_a_bad_directory_is_a_clear_error(tmp_path, cwd):
    (tmp_path / "file").write_text("")

    message = await why_not_started(cwd=tmp_path / cwd)

    problem = "No such file or directory" if cwd == "missing" else "Not a directory"
    assert message == f"cannot start '/bin/sh' in '{tmp_path / cwd}': {problem}"


async def test_it_has_a_session_of_its_own():
    lines = Lines()

    await python(
        "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())", on_output=lines
    )()

    assert lines == ["True"]


async def test_too_long_arguments_are_a_clear_error():
    message = await why_not_started(env={"LONG": "x" * 3_000_000})

    assert message == "cannot start '/bin/sh': Argument list too long"


# Its user, mask, priority and limits.


@as_root
async def test_it_runs_as_a_user_by_name_or_number_with_what_is_that_users(tmp_path):
    script = "id -u; id -g; echo $HOME $LOGNAME $USER $SHELL"
    for user in ("nobody", NOBODY.pw_uid):
        assert await said(script, user=user, cwd="/") == [
            str(NOBODY.pw_uid),
            str(NOBODY.pw_gid),
            f"{NOBODY.pw_dir} nobody nobody {NOBODY.pw_shell}",
        ]
    assert await said("echo $HOME", user="nobody", cwd="/", env={"HOME": "/given"}) == ["/given"]


@as_root
@on_linux
async def test_it_has_the_users_supplementary_groups_and_none_of_ours():
    group = grp.getgrnam("daemon").gr_gid

    lines = await said(
        "grep -E '^(Uid|Gid|Groups):' /proc/self/status", user="nobody", group="daemon", cwd="/"
    )

    numbers = {line.split(":")[0]: [*map(int, line.split()[1:])] for line in lines}
    assert numbers == {
        "Uid": [NOBODY.pw_uid] * 4,
        "Gid": [group] * 4,
        "Groups": os.getgrouplist("nobody", group),
    }


@as_root
async def test_a_user_who_may_not_enter_our_directory_is_started_in_an_absolute_one(
    tmp_path, monkeypatch
):
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)

    assert await said("pwd", user="nobody", cwd="/") == ["/"]
    assert "Permission denied" in await why_not_started(user="nobody")


@as_root
async def test_a_user_without_an_entry_needs_a_group():
    assert await said("id -u; id -g; id -G", user=54321, group=54322, cwd="/") == [
        "54321",
        "54322",
        "54322",
    ]

    assert "user 54321 has no entry, so its group must be given" in await why_not_started(
        user=54321
    )


@pytest.mark.parametrize("option", ["user", "group"])
async def test_an_unknown_user_or_group_is_a_clear_error(option):
    message = await why_not_started(**{option: "no-such-one"})

    assert message == f"cannot start '/bin/sh': there is no {option} 'no-such-one'"


async def test_a_change_to_oneself_needs_no_privilege():
    entry = pwd.getpwuid(os.getuid())

    assert await said("id -u", user=entry.pw_name) == [str(os.getuid())]


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="takes privileges away")
async def test_what_this_process_has_no_privilege_for_is_a_clear_error():
    script = (
        "import os, resource, trio\n"
        "from actp_supervise.process import process_child\n"
        "for options in ({'user': 'daemon'}, {'group': 'daemon'}, {'nice': -5},\n"
        "    {'limits': {resource.RLIMIT_NOFILE: 10**6}}):\n"
        "    try: trio.run(process_child(['/bin/true'], **options))\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    lines = Lines()

    argv = ["setpriv", "--bounding-set=-all", sys.executable, "-u", "-c", script]
    await process_child(argv, limits={resource.RLIMIT_NOFILE: 1000}, on_output=lines)()

    assert lines == [
        "ProcessNotStarted cannot start '/bin/true' as user 'daemon': Operation not permitted",
        "ProcessNotStarted cannot start '/bin/true' as group 'daemon': Operation not permitted",
        "ProcessNotStarted cannot start '/bin/true' with nice -5: Permission denied",
        "ProcessNotStarted cannot start '/bin/true' with RLIMIT_NOFILE 1000000:"
        " Operation not permitted",
    ]


async def test_it_has_the_given_mask():
    assert await said("umask", umask=0o27) == ["0027"]


async def test_it_has_the_given_priority():
    assert await said("nice", nice=7) == ["7"]


async def test_it_has_the_given_limits():
    limits = {resource.RLIMIT_NOFILE: (50, 60), resource.RLIMIT_CORE: 0}

    assert await said("ulimit -Sn; ulimit -Hn; ulimit -c", limits=limits) == ["50", "60", "0"]


@on_linux
async def test_it_starts_with_default_signals_whatever_this_process_has_inherited():
    """A shell starts its background jobs with SIGINT ignored; Python itself ignores SIGPIPE."""
    script = "grep -E '^Sig(Blk|Ign):' /proc/self/status"
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        lines = await said(script)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)

    of_the_c_library = 1 << 31 | 1 << 32  # which it lets nobody set
    assert [int(line.split()[1], 16) & ~of_the_c_library for line in lines] == [0, 0]


async def test_the_stop_signal_reaches_it_where_this_process_ignores_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        async with open_supervisor(shutdown_timeout=30.0) as supervisor:
            await supervisor.start(
                process_child(["/bin/sleep", "1000"], stop_signal=signal.SIGINT), name="c"
            )
            await supervisor.stop("c")
            assert supervisor["c"].last_error is None  # and it was not killed
            await supervisor.shutdown()
    finally:
        signal.signal(signal.SIGINT, before)

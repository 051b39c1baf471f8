"""The files for service managers: right by their own tools, and in agreement with the settings."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from app.main import WRONG
from app.settings import load_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "actp-worker.service"
PLIST = DEPLOY / "com.everreach.actp-worker.plist"
LOGROTATE = DEPLOY / "actp-worker.logrotate"
NEWSYSLOG = DEPLOY / "newsyslog.conf"

END = 15
"""Seconds that the daemon needs at most when its work in flight is over."""

EXPOSURE = 20
"""What `systemd-analyze security` may find at most, of 100."""


def tool(name):
    """Return where a program is; without it the test is skipped, or fails where all have to be."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        message = f"{name} is not installed"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def unit():
    """The unit's settings; each has all of its values."""
    settings = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings[name].append(value)
    return settings


@pytest.fixture
def plist():
    return plistlib.loads(PLIST.read_bytes())


@pytest.fixture
def installed(tmp_path):
    """The unit as it would be with its checkout in a folder of the test."""
    python = tmp_path / "checkout" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/actp-worker", str(tmp_path / "checkout")))
    return path


def test_systemd_finds_nothing_wrong_with_its_unit(installed):
    assert run(tool("systemd-analyze"), "verify", str(installed)) == (0, "")


def test_systemd_would_find_what_is_wrong(installed):
    installed.write_text(installed.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "PrivateTemp" in run(tool("systemd-analyze"), "verify", str(installed))[1]


def test_systemd_finds_the_service_well_confined(installed):
    options = ("--offline=true", "--no-pager", f"--threshold={EXPOSURE}")
    code, out = run(tool("systemd-analyze"), "security", *options, str(installed))
    assert code == 0, out


def test_the_unit_speaks_of_what_the_daemon_does(unit):
    drain = load_settings({}, env_file=None).drain_timeout
    assert unit["TimeoutStopSec"] == [f"{drain + END:.0f}"]
    assert unit["RestartPreventExitStatus"] == [str(WRONG)]
    assert (unit["Type"], unit["NotifyAccess"]) == (["notify"], ["main"])
    assert unit["KillMode"] == ["mixed"]  # an agent in a process of its own is stopped by us
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["ExecStart"][0].endswith("-m app.main")
    assert float(unit["WatchdogSec"][0]) >= 30


def test_all_that_the_daemon_writes_is_where_the_unit_lets_it(unit):
    (setting,) = unit["Environment"]
    name, _, path = setting.partition("=")
    assert name == "WORKER_DB_PATH"
    assert Path(path).parent == Path("/var/lib", *unit["StateDirectory"])
    logs = Path("/var/log", *unit["LogsDirectory"])
    assert f"{logs}/*.log {{" in LOGROTATE.read_text()


# What launchd.plist(5) knows, as far as we use it.
LAUNCHD = {
    "Label": str,
    "ProgramArguments": list,
    "WorkingDirectory": str,
    "RunAtLoad": bool,
    "KeepAlive": bool,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "Umask": int,
    "EnvironmentVariables": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}


def test_launchd_knows_each_key_and_its_kind(plist):
    assert {key: type(value) for key, value in plist.items()} == LAUNCHD
    assert PLIST.stem == plist["Label"]


def test_apples_own_tool_finds_nothing_wrong():
    if shutil.which("plutil") is None:
        pytest.skip("plutil comes with macOS alone")
    assert run("plutil", "-lint", str(PLIST))[0] == 0


def test_the_plist_speaks_of_what_the_daemon_does(plist):
    settings = load_settings(plist["EnvironmentVariables"], env_file=None)
    assert plist["ExitTimeOut"] == settings.drain_timeout + END
    assert plist["ProgramArguments"][1:] == ["-m", "app.main"]
    assert settings.warnings == load_settings({}, env_file=None).warnings  # so each name is known
    assert plist["Umask"] == 0o077
    assert (plist["KeepAlive"], plist["RunAtLoad"]) == (True, True)
    assert str(settings.log_file) in NEWSYSLOG.read_text()


def test_nothing_but_the_home_directory_is_to_be_replaced_in_the_plist():
    paths = re.findall(r"/Users/[^/<\s,]+", PLIST.read_text())
    assert set(paths) == {"/Users/YOU"}
    assert "~/" not in re.sub("<!--.*?-->", "", PLIST.read_text(), flags=re.DOTALL)


def test_logrotate_moves_the_log_away_and_begins_none(tmp_path):
    log = tmp_path / "worker.log"
    log.write_text("{}\n")
    me = f"{log.owner()} {log.group()}"
    config = tmp_path / "logrotate.conf"
    config.write_text(
        LOGROTATE.read_text()
        .replace("/var/log/actp-worker", str(tmp_path))
        .replace("su actp-worker actp-worker", f"su {me}")
    )
    state = str(tmp_path / "state")
    assert run(tool("logrotate"), "--force", "--state", state, str(config)) == (0, "")
    assert not log.exists()
    assert (tmp_path / "worker.log.1").read_text() == "{}\n"


def test_newsyslog_gets_as_many_columns_as_it_expects():
    (line,) = [line for line in NEWSYSLOG.read_text().splitlines() if line[:1] not in "#"]
    _, owner, mode, count, size, when, flags = line.split()
    assert (owner, mode, when) == ("YOU:staff", "600", "*")
    assert (int(count), int(size)) == (7, 51200)
    assert set(flags) == {"J", "N"}  # compress, signal nobody

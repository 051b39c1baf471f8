"""The daemon as a service: ready, reloaded, frozen, stopped; and its log in a file."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import trio
from daemons import MAIN, PATIENCE, until

from actp_supervise import open_supervisor
from actp_supervise.process import process_child

FREEZES = """
import asyncio, time

from actp_supervise import current_child

class Agent:
    async def run_as_daemon(self, poll_interval):
        await asyncio.sleep(1)  # in which the daemon says that it is ready: its watchdog begins
        await current_child().stopping.wait() if {well} else time.sleep(3600)
"""


class Service:
    """A daemon that a supervisor of ours runs as a service manager would."""

    def __init__(self, place):
        self.place = place
        self.statuses = []
        self.log = []
        self.run = process_child(
            MAIN,
            notify=True,
            on_status=self.statuses.append,
            on_output=self.take,
            ready_timeout=PATIENCE,
            env={**dict.fromkeys(os.environ), **place.environment()},
            cwd=place.folder,
        )

    def take(self, line):
        if line.startswith("{"):
            self.log.append(json.loads(line))

    def logged(self, action):
        return [line for line in self.log if line.get("action") == action]

    async def until_logged(self, action):
        (line, *_) = await until(lambda: self.logged(action))
        return line


async def test_a_daemon_tells_its_service_manager_how_it_is(idle_place):
    service = Service(idle_place)
    async with open_supervisor() as supervisor:
        pid = await supervisor.start(service.run, name="daemon", shutdown_timeout=PATIENCE)
        await service.until_logged("starting")
        await until(lambda: service.statuses)
        os.kill(pid, signal.SIGHUP)
        await service.until_logged("settings_reloaded")
        await supervisor.shutdown()
    assert service.statuses[0] == "healthy, 1 agent"
    assert "Stopping: work in flight finishes" in service.statuses
    assert set(idle_place.statuses().values()) == {"stopped"}


async def test_a_start_that_waits_for_the_store_says_so_and_lives_through_a_sighup(idle_place):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0actp-test-{os.getpid()}")
        manager.settimeout(PATIENCE)
        away = {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_SERVICE_ROLE_KEY": "none"}
        async with idle_place.starting_daemon(
            **away, NOTIFY_SOCKET=f"@actp-test-{os.getpid()}"
        ) as daemon:
            message = await trio.to_thread.run_sync(manager.recv, 4096)
            daemon.signal(signal.SIGHUP)
            await trio.to_thread.run_sync(manager.recv, 4096)
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 130
    status, more_time = message.decode().splitlines()
    assert status == "STATUS=Waiting for the store"
    assert more_time.startswith("EXTEND_TIMEOUT_USEC=3")


async def test_a_daemon_that_is_frozen_is_replaced(idle_place):
    crashes = []
    idle_place.use_class(FREEZES.format(well=False), "Agent")
    async with open_supervisor() as supervisor:
        idle_place.environ["WORKER_HEALTH_PORT"] = "0"
        service = Service(idle_place)
        child = supervisor.start_soon(service.run, watchdog=4.0, shutdown_timeout=PATIENCE)
        await service.until_logged("loop_blocked")
        idle_place.use_class(FREEZES.format(well=True), "Agent")
        await until(lambda: child.crashes)
        crashes.append(child.last_error)
        await until(lambda: "healthy, 1 agent" in service.statuses[1:])
        await supervisor.shutdown()
    assert "no beat for 4.0 s" in crashes[0]


async def test_changed_settings_are_taken_up_on_sighup(idle_place):
    env_file = idle_place.folder / ".env"
    env_file.write_text("SOCIAL_MEDIA_AGENT_MODEL=model-one\n")
    async with idle_place.daemon() as daemon:
        assert (await daemon.until_agent("social", "running"))["model"] == "model-one"
        env_file.write_text("SOCIAL_MEDIA_AGENT_MODEL=model-two\nWORKER_TASK_LEASE=77\n")
        daemon.signal(signal.SIGHUP)
        told = await until(lambda: daemon.logged("settings_reloaded"))
        assert told["applied"] == ["SOCIAL_MEDIA_AGENT_MODEL"]
        assert told["needs_restart"] == ["WORKER_TASK_LEASE"]
        await until(lambda: len(idle_place.rows("select * from actp_agent_runs")) == 2)
        agent = await daemon.until_agent("social", "running")
        assert (agent["model"], agent["crashes"]) == ("model-two", 0)
        (row,) = idle_place.rows("select model from actp_agent_registry where agent_id = 'social'")
        assert row["model"] == "model-two"
        env_file.write_text("SOCIAL_MEDIA_AGENT_MODEL=model three\n")
        daemon.signal(signal.SIGHUP)
        wrong = await until(lambda: daemon.logged("settings_wrong"))
        assert "SOCIAL_MEDIA_AGENT_MODEL=model three: must be" in wrong["message"]
        env_file.unlink()
        daemon.signal(signal.SIGHUP)
        gone = ".env is not there any more"
        await until(lambda: any(gone in line.get("message", "") for line in daemon.lines))
        assert (await daemon.get("/agents/social"))["model"] == "model-two"
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0


async def test_a_terminal_that_is_closed_does_not_end_the_daemon(idle_place):
    controller, terminal = os.openpty()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", HANGS_UP, *MAIN],
        cwd=idle_place.folder,
        env=idle_place.environment(WORKER_LOG_FILE="worker.log"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    log = idle_place.folder / "worker.log"

    def logged(action):
        return log.exists() and f'"action": "{action}"' in log.read_text()

    try:
        await until(lambda: logged("starting"))
        os.close(controller)  # and the kernel sends SIGHUP
        await until(lambda: logged("settings_reloaded"))
        await trio.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


HANGS_UP = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_a_log_file_can_be_moved_away_while_the_daemon_runs(idle_place):
    log = idle_place.folder / "worker.log"
    async with idle_place.starting_daemon(WORKER_LOG_FILE=str(log)) as daemon:
        await until(lambda: log.exists() and '"starting"' in log.read_text())
        moved = log.rename(log.with_suffix(".log.1"))
        size = moved.stat().st_size
        daemon.signal(signal.SIGHUP)
        await until(log.exists)
        await until(lambda: '"settings_reloaded"' in log.read_text())
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert moved.stat().st_size == size
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["action"] == "stopped"
    assert daemon.lines == []


async def test_a_log_file_that_cannot_be_written_is_refused_in_one_line(idle_place):
    for command in ([], ["--dry-run"]):
        ended = await idle_place.run(*command, WORKER_LOG_FILE="/proc/worker.log")
        assert ended.code == 2
        assert ended.err == (
            "error: WORKER_LOG_FILE=/proc/worker.log: cannot be written: "
            "No such file or directory\n"
        )


async def test_a_full_disk_does_not_keep_the_daemon_from_its_work(idle_place):
    async with idle_place.daemon(WORKER_LOG_FILE="/dev/full") as daemon:
        await daemon.until_agent("social", "running")
        assert daemon.logged("log_file_failed")
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0


TALKS = """
import logging
from actp_supervise import current_child

class Agent:
    async def run_as_daemon(self, poll_interval):
        for _ in range(300):
            logging.getLogger("own").warning("x" * 1000)
        await current_child().stopping.wait()
"""


@asynccontextmanager
async def logging_to_a_pipe(place):
    """Run a daemon whose log goes to a pipe; in the end it is stopped well, whoever reads that."""
    process = await trio.lowlevel.open_process(
        MAIN, cwd=place.folder, env=place.environment(), stderr=subprocess.PIPE
    )

    def runs():
        with suppress(sqlite3.Error):  # there is no database yet
            return place.statuses().get("social") == "running"

    try:
        yield process
        await until(runs)
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    assert set(place.statuses().values()) == {"stopped"}


async def test_a_reader_of_the_log_that_stops_reading_does_not_hold_the_daemon(idle_place):
    """As a terminal does that was stopped, or whose ssh was left behind."""
    idle_place.use_class(TALKS, "Agent")
    async with logging_to_a_pipe(idle_place):
        pass


async def test_a_reader_of_the_log_that_has_left_does_not_change_the_exit_code(idle_place):
    async with logging_to_a_pipe(idle_place) as process:
        assert await process.stderr.receive_some()
        await process.stderr.aclose()

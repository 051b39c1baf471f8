"""What is the embedded store's own: its file, other processes on it, a disk that fails.

The clock is the real one, and locks, processes and failures are real.
"""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio
from store_calls import LONG, add, claim, register, turn
from trio.testing import wait_all_tasks_blocked

from app.store.journal import sqlite as sqlite_journal
from app.store.protocol import Kept, StoreError, StoreUnavailable, TableMissing, TaskStatus
from app.store.queue import sqlite as sqlite_queue
from app.store.schema import check_required_tables
from app.store.sqlite import open_sqlite_store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "store.db"


@pytest.fixture
async def store(path):
    async with open_sqlite_store(path, lock_timeout=0.4) as store:
        yield store


@pytest.fixture
async def patient_store(path):
    async with open_sqlite_store(path, lock_timeout=60) as store:
        yield store


def outside(path):
    """A connection of somebody else's."""
    return closing(sqlite3.connect(path, isolation_level=None))


async def run_python(script, *arguments, **options):
    """Run a script against the app in a process of its own and return what it printed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, **options)
    return done.stdout.decode().split()


# -- the file


async def test_a_new_file_and_its_folder_are_private(path):
    async with open_sqlite_store(path) as store:
        await add(store)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    async with open_sqlite_store(folder / "store.db"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


async def test_what_was_stored_is_there_after_a_restart(path):
    async with open_sqlite_store(path) as store:
        await add(store)
    async with open_sqlite_store(path) as store:
        assert (await store.task("t1")).goal == "do it"


async def test_the_tables_read_plainly_from_outside(store, path):
    await register(store, "social")
    await store.set_needs_restart("social", value=True)
    with outside(path) as db:
        assert db.execute(
            "select agent_id, status, class_name, needs_restart from actp_agent_registry"
        ).fetchall() == [("social", "starting", "a.b:social", 1)]


async def test_a_file_that_is_no_database_is_refused_in_one_line_and_kept(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes. " * 100)
    with pytest.raises(StoreError, match="not a SQLite database") as refused:
        async with open_sqlite_store(path):
            pytest.fail("opened")
    assert "\n" not in str(refused.value)
    assert path.read_text() == "These are my notes. " * 100


async def test_a_folder_in_place_of_the_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(StoreError, match="cannot open") as refused:
        async with open_sqlite_store(tmp_path):
            pytest.fail("opened")
    assert str(tmp_path) in str(refused.value)


async def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use") as refused:
        async with open_sqlite_store(tmp_path / "file" / "store.db"):
            pytest.fail("opened")
    assert "\n" not in str(refused.value)


POWERLESS = """
import os, sys, trio
from pathlib import Path
from app.store.protocol import StoreError
from app.store.sqlite import open_sqlite_store

async def main():
    for path in sys.argv[1:]:
        try:
            async with open_sqlite_store(Path(path)):
                print("opened")
        except StoreError as error:
            print(len(str(error).splitlines()), path in str(error))

if os.geteuid() == 0:  # root may write to anything
    os.setuid(65534)
trio.run(main)
"""


@pytest.fixture
def read_only_folder():
    """A folder with a database, outside pytest's own folder, which only its user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(sqlite3.connect(folder / "store.db")) as db:
            db.execute("create table something (x)")
        (folder / "store.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


async def test_a_file_or_folder_that_may_not_be_written_is_refused_in_one_line(read_only_folder):
    paths = (read_only_folder / "store.db", read_only_folder / "new.db")
    assert await run_python(POWERLESS, *paths) == ["1", "True"] * 2


async def test_a_file_that_a_daemon_left_and_nobody_may_write_is_refused(read_only_folder, path):
    """It can be opened, and a transaction be begun, as long as none writes."""
    async with open_sqlite_store(path) as store:
        await add(store)
        read_only_folder.chmod(0o755)
        for file in path.parent.iterdir():
            copy = read_only_folder / file.name.replace("store", "left")
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o444)
    read_only_folder.chmod(0o555)
    assert await run_python(POWERLESS, read_only_folder / "left.db") == ["1", "True"]


async def test_a_damaged_file_is_a_store_error(path):
    async with open_sqlite_store(path) as store:
        for number in range(50):
            await store.add_task(f"t{number}", "social", "x" * 2000)
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.db is damaged \(.+\): stop the daemon and put a"):
        async with open_sqlite_store(path) as store:
            await store.tasks()


async def test_a_file_removed_while_in_use_is_noticed_and_can_be_put_back(store, path):
    await add(store)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        await add(store, "t2")
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        await store.tasks()
    path.with_suffix(".away").rename(path)
    await add(store, "t3")
    assert [task.id for task in await store.tasks()] == ["t3", "t1"]


async def test_a_log_of_sqlite_removed_while_in_use_is_noticed_and_what_it_held_is_kept(path):
    """With it would go what was written since SQLite last emptied it."""
    async with open_sqlite_store(path) as store:
        await add(store)
        path.with_name(f"{path.name}-wal").unlink()
        with pytest.raises(StoreUnavailable, match="db-wal was removed or replaced"):
            await add(store, "t2")
    async with open_sqlite_store(path) as store:
        assert [task.id for task in await store.tasks()] == ["t1"]


# -- tables


async def test_a_missing_table_is_named_by_the_check_and_the_error(store, path):
    with outside(path) as db:
        db.execute("drop table actp_deal_log")
        db.execute("drop table actp_agent_memory")
    report = await check_required_tables(store)
    assert report.missing == {"actp_agent_memory": (), "actp_deal_log": ()}
    with pytest.raises(TableMissing, match="actp_agent_memory"):
        await store.remember("social", "k", "v")
    await add(store)


async def test_a_missing_column_is_named_by_the_check_and_the_error(store, path):
    with outside(path) as db:
        db.execute("alter table actp_agent_registry drop column restart_token")
    report = await check_required_tables(store)
    assert report.missing == {"actp_agent_registry": ("restart_token",)}
    with pytest.raises(TableMissing, match="restart_token"):
        await store.set_needs_restart("social", value=True)


async def test_json_that_somebody_wrote_by_hand_stops_no_work_and_no_list(store, path):
    contexts = {'{"a": 1}': {"a": 1}, "[1]": {"value": [1]}, "a text": {"value": "a text"}}
    for number, context in enumerate(contexts):
        await add(store, f"t{number}")
        with outside(path) as db:
            db.execute(
                "update actp_agent_tasks set context = ? where id = ?", (context, f"t{number}")
            )
    claimed = [(await claim(store, f"k{number}")).context for number, _ in enumerate(contexts)]
    assert claimed == list(contexts.values())
    assert [task.context for task in reversed(await store.tasks())] == claimed


async def test_opening_makes_what_an_older_file_lacks_and_keeps_what_it_has(path):
    async with open_sqlite_store(path) as store:
        await add(store)
        await register(store, "social")
        await store.touch_worker("w1", "w1-run", {"social": "running"}, silent_after=LONG)
    with outside(path) as db:
        db.execute("drop table actp_deal_log")
        db.execute("drop table actp_leases")
        db.execute("drop table actp_task_turns")
        db.execute("alter table actp_workers drop column last_seen")
        db.execute("alter table actp_workers drop column agents")
        db.execute("drop index actp_agent_tasks_ready")
        db.execute("alter table actp_agent_registry drop column needs_restart")
        db.execute("alter table actp_agent_tasks drop column settled_token")
    async with open_sqlite_store(path) as store:
        assert await store.check_tables() == {}
        assert (await store.agents())[0].needs_restart is False
        (worker,) = await store.live_workers()
        assert (worker.worker_id, worker.agents) == ("w1", {})
        assert worker.last_seen == worker.started_at
        assert (await store.hold_lease("social", "w1-run", lease=LONG)).worker_id == "w1"
        await store.record_turn(turn("one"))
        assert (await claim(store)).id == "t1"


async def test_the_claim_looks_at_no_task_but_what_waits_in_that_queue(store, path):
    with outside(path) as db:
        plans = {
            statement: " ".join(
                row[3]
                for row in db.execute(
                    "explain query plan " + statement, dict.fromkeys(PARAMETERS, "x")
                )
            )
            for statement in (sqlite_queue._CLAIM, sqlite_queue._LEASE_RAN_OUT)
        }
    claim_plan, lease_plan = plans.values()
    assert "actp_agent_tasks_ready (agent_type=?)" in claim_plan
    assert "TEMP B-TREE" not in claim_plan
    assert "actp_agent_tasks_leases (agent_type=? AND lease_until<?)" in lease_plan


PARAMETERS = ("agent_type", "worker_id", "instance", "token", "lease")


async def test_what_is_old_among_the_tasks_is_found_without_a_look_at_the_others(store, path):
    with outside(path) as db:
        db.create_function("given_now", 0, lambda: "2026-11-29 00:00:00.000")
        values = {"older_than": 1.0, "limit": 10}
        statement = "explain query plan " + sqlite_journal._OLD[Kept.TASKS]
        plan = [row[3] for row in db.execute(statement, values)]
    assert plan == ["SEARCH actp_agent_tasks USING INDEX actp_agent_tasks_over (finished_at<?)"]


# -- other processes


async def test_a_call_waits_for_another_process_to_end_its_write(patient_store, path):
    store = patient_store
    with outside(path) as db:
        db.execute("begin immediate")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, store)
            await trio.sleep(0.1)
            assert await store.tasks() == []
            db.execute("commit")
    assert await store.task("t1") is not None


async def test_a_file_locked_for_long_is_unavailable_and_later_is_not(store, path):
    with outside(path) as db:
        db.execute("begin immediate")
        with pytest.raises(StoreUnavailable, match="locked"):
            await add(store)
        db.execute("rollback")
    await add(store)


async def test_what_is_locked_for_writing_can_be_read(patient_store, path):
    await add(patient_store)
    with outside(path) as db:
        db.execute("begin immediate")
        with trio.fail_after(60):
            assert await patient_store.task("t1") is not None


async def test_a_wait_for_a_lock_can_be_cancelled(patient_store, path):
    with outside(path) as db:
        db.execute("begin immediate")
        with trio.move_on_after(0.05) as scope:
            await add(patient_store)
        assert scope.cancelled_caught
        db.execute("rollback")
    assert await patient_store.task("t1") is None
    await add(patient_store)


async def test_opening_a_locked_file_again_needs_no_lock_for_long(path):
    async with open_sqlite_store(path):
        pass
    with outside(path) as db:
        db.execute("begin immediate")
        with pytest.raises(StoreUnavailable, match="locked"):
            async with open_sqlite_store(path, lock_timeout=0.1):
                pytest.fail("opened")


CLAIMER = """
import sys, trio
from pathlib import Path
from app.store.protocol import TaskStatus
from app.store.sqlite import open_sqlite_store

async def claimer(store, name):
    for number in range(10_000):
        token = f"{name}-{number}"
        task = await store.claim_task(
            "social", worker_id=name, instance=name, token=token, lease=60
        )
        if task is None:
            return
        print(task.id, flush=True)
        assert await store.finish_task(task.id, token, TaskStatus.SUCCEEDED)

async def main():
    async with open_sqlite_store(Path(sys.argv[1])) as store, trio.open_nursery() as nursery:
        await store.touch_worker(sys.argv[2], sys.argv[2], {}, silent_after=1000.0)
        while len(await store.live_workers()) < 4:
            await trio.sleep(0.01)
        for number in range(5):
            nursery.start_soon(claimer, store, f"{sys.argv[2]}-{number}")

trio.run(main)
"""


async def test_twenty_claimers_in_four_processes_claim_five_hundred_tasks_once_each(store, path):
    for number in range(500):
        await add(store, f"t{number}")
    claimed = []

    async def process(name):
        claimed.extend(await run_python(CLAIMER, path, name))

    async with trio.open_nursery() as nursery:
        for name in ("p1", "p2", "p3", "p4"):
            nursery.start_soon(process, name)
    assert len(claimed) == 500
    assert len(set(claimed)) == 500
    assert await store.count_tasks() == {"social": {TaskStatus.SUCCEEDED: 500}}
    workers = {task.worker_id.split("-")[0] for task in await store.tasks(limit=500)}
    assert len(workers) > 1


OPENER = """
import sys, trio
from pathlib import Path
from app.store.sqlite import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])) as store:
        print(len(await store.check_tables()))

trio.run(main)
"""


async def test_processes_that_make_the_same_new_file_at_once_all_succeed(path):
    printed = []

    async def process():
        printed.extend(await run_python(OPENER, path))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(process)
    assert printed == ["0"] * 5


WRITER = """
import sys, trio
from pathlib import Path
from app.store.sqlite import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])) as store:
        for number in range(100_000):
            task = await store.add_task(f"t{number}", "social", "x" * 3000)
            await store.claim_task(
                "social", worker_id="dead", instance="dead", token=task.id, lease=60
            )
            print(task.id, flush=True)

trio.run(main)
"""


async def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_answered(path):
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    printed = b""
    while printed.count(b"\n") < 100:
        printed += await process.stdout.receive_some()
    process.kill()
    await process.wait()
    async for chunk in process.stdout:
        printed += chunk
    answered = set(printed[: printed.rindex(b"\n")].decode().split())
    with outside(path) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    async with open_sqlite_store(path) as store:
        running = {task.id for task in await store.tasks(status=TaskStatus.RUNNING, limit=10**6)}
        assert answered <= running
        await store.forget_worker("dead")
        assert await store.tasks(status=TaskStatus.RUNNING) == []


FULL_DISK = """
import resource, sys, trio
from pathlib import Path
from app.store.protocol import StoreUnavailable
from app.store.sqlite import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])) as store:
        await store.add_task("before", "social", "g")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = Path(sys.argv[1] + "-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
        try:
            await store.add_task("during", "social", "x" * 200_000)
        except StoreUnavailable:
            print("unavailable")
        print(len(await store.tasks()))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.add_task("after", "social", "x" * 200_000)
        print(*[task.id for task in await store.tasks()])

trio.run(main)
"""


async def test_without_a_thread_the_store_is_away_until_there_is_one(path):
    released = threading.Event()
    async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
        for _ in range(20):  # which take the threads that Trio keeps for later
            wait = partial(trio.to_thread.run_sync, released.wait, limiter=trio.CapacityLimiter(1))
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        before = threading.stack_size(1 << 46)  # for which there is no room
        try:
            with pytest.raises(StoreUnavailable, match="no thread can be started"):
                await store.add_task("one", "social", "a goal")
            with pytest.raises(StoreUnavailable, match="no thread can be started"):
                await store.tasks()
        finally:
            threading.stack_size(before)
            released.set()
        await store.add_task("two", "social", "a goal")
        assert [task.id for task in await store.tasks()] == ["two"]


async def test_a_disk_that_takes_no_more_is_unavailable_until_it_does(path):
    """A limit on the size of files fails a write as a full disk does, at any point in it."""
    assert await run_python(FULL_DISK, path) == ["unavailable", "1", "after", "before"]

"""What was acknowledged is on the disk: the embedded store survives a power cut."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parents[2]

SHADOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* After each sync, a file in $SHADOW is as the disk has it. */
static void copy(int from) {
    char link[64], path[PATH_MAX], to[PATH_MAX], part[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", from);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || !getenv("SHADOW")) return;
    path[length] = 0;
    snprintf(to, sizeof to, "%s/%s", getenv("SHADOW"), basename(path));
    int file = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    off_t at = 0;
    while ((length = pread(from, part, sizeof part, at)) > 0) {
        if (write(file, part, length) != length) abort();
        at += length;
    }
    close(file);
}

int fdatasync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    int result = real(file);
    copy(file);
    return result;
}

int fsync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    int result = real(file);
    copy(file);
    return result;
}
"""

SCRIPT = """
import shutil, sys
from pathlib import Path
import trio
from app.store.protocol import TaskStatus
from app.store.sqlite import open_sqlite_store

folder = Path(sys.argv[1])
cuts = 0

def cut(what):
    global cuts
    # The journal in which the file was made is gone by now.
    to, ignore = folder / f"cut-{cuts:02}-{what}", shutil.ignore_patterns("*-journal")
    shutil.copytree(folder / "shadow", to, ignore=ignore)
    cuts += 1

async def main():
    async with open_sqlite_store(folder / "store.db") as store:
        for number in range(5):
            await store.add_task(f"t{number}", "social", "g")
            cut("queued")
            claim = {"worker_id": "w", "instance": "i", "token": f"k{number}", "lease": 60}
            task = await store.claim_task("social", **claim)
            cut("running")
            await store.begin_effect(f"e{number}", agent_id="social", task_id=task.id)
            cut("running")
            assert await store.finish_task(task.id, f"k{number}", TaskStatus.SUCCEEDED)
            cut("succeeded")
        async with trio.open_nursery() as nursery:
            for number in range(5, 25):
                nursery.start_soon(store.add_task, f"t{number}", "social", "g")
        cut("queued")

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="intercepts calls as Linux has them")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
async def test_after_a_power_cut_all_that_was_acknowledged_is_there(tmp_path):
    source, library = tmp_path / "shadow.c", tmp_path / "shadow.so"
    source.write_text(SHADOW)
    command = ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    await trio.to_thread.run_sync(lambda: subprocess.run(command, check=True))
    (tmp_path / "shadow").mkdir()
    environ = {"LD_PRELOAD": str(library), "SHADOW": str(tmp_path / "shadow")}
    await trio.run_process([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, env=environ)

    cuts = sorted(tmp_path.glob("cut-*"))
    assert len(cuts) == 21
    for number, cut in enumerate(cuts[:-1]):
        with closing(sqlite3.connect(cut / "store.db")) as db:
            rows = db.execute("select status from actp_agent_tasks order by rowid").fetchall()
            (effects,) = db.execute("select count(*) from actp_effects").fetchone()
        assert len(rows) == number // 4 + 1
        assert rows[-1][0] == cut.name.split("-")[2]
        assert effects == number // 4 + (number % 4 >= 2)
    with closing(sqlite3.connect(cuts[-1] / "store.db")) as db:
        assert db.execute("select count(*) from actp_agent_tasks").fetchone() == (25,)

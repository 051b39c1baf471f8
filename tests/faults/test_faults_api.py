"""Ten minutes of stateful fuzzing of the API of a daemon at work, by its own description.

Two fuzzers at once, one with each token, follow what answers lead to: a task that was posted is
read, cancelled, retried, and so on. `make test-long API_MINUTES=1` is a short one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio

MINUTES = float(os.environ.get("API_MINUTES") or 10)

pytestmark = [pytest.mark.long, pytest.mark.timeout(60 * MINUTES + 600)]

TOKENS = {"api": "a-token-that-changes-things-8c1f", "read": "a-token-that-only-reads-77ab"}

CONFIG = """
hooks = "hooks.py"

[checks.not_a_server_error]
# 503 is in the description: an agent that the fuzzer stopped makes the daemon critical.
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""

HOOKS = """
import os

import schemathesis


@schemathesis.check
def no_token_is_told(ctx, response, case):
    told = f"{response.headers}{response.text}"
    for token in os.environ["TOKENS"].split():
        assert token not in told, f"the answer has the token {token}"
"""

NOT_ALLOWED = "positive_data_acceptance,use_after_free,ensure_resource_availability"
"""Checks that do not go with a token that may change nothing."""


def narrowed(description, known):
    """Name what there is, so that the fuzzer gets past "there is no such agent".

    A cursor is of use only as the page before has it: one that was made up is 422, page by page.
    """
    for path, methods in description["paths"].items():
        for operation in methods.values():
            given = operation.get("parameters", [])
            given[:] = [parameter for parameter in given if parameter["name"] != "cursor"]
            for parameter in given:
                name = parameter["name"]
                if parameter["in"] == "path" and name in known and "static" not in path:
                    parameter["schema"] = {"enum": known[name]}
    return description


async def fuzz(url, folder, who, description):
    """Play one fuzzer until its time is up."""
    own = folder / who
    own.mkdir()
    (own / "openapi.json").write_text(json.dumps(description))
    (own / "schemathesis.toml").write_text(CONFIG)
    (own / "hooks.py").write_text(HOOKS)
    return await trio.run_process(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            "openapi.json",
            f"--url={url}",
            f"--header=Authorization: Bearer {TOKENS[who]}",
            "--phases=stateful",
            "--checks=all",
            *([f"--exclude-checks={NOT_ALLOWED}"] if who == "read" else []),
            "--exclude-path=/events",  # it never ends
            "--max-examples=1000000",
            f"--max-time={60 * MINUTES:.0f}",
            "--request-timeout=30",
            "--generation-database=none",
            "--generation-codec=utf-8",
            "--no-color",
        ],
        cwd=own,
        env={**os.environ, "TOKENS": " ".join(TOKENS.values())},
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )


async def test_ten_minutes_of_stateful_fuzzing_find_nothing(place, tmp_path, figures):
    place.environ |= {
        "WORKER_API_TOKEN": TOKENS["api"],
        "WORKER_READ_TOKEN": TOKENS["read"],
        "REVENUE_AGENT_CLASS": "app.demo.crashing:CrashingRevenueAgent",
    }
    began = trio.current_time()
    found = {}
    async with place.daemon() as daemon:
        daemon.http.headers["Authorization"] = f"Bearer {TOKENS['api']}"
        for agent in ("social", "content", "acquisition", "revenue"):
            await daemon.post(agent, "Recall what we know [simulate: slow 1]")
        known = {
            "agent_id": [agent["agent_id"] for agent in await daemon.get("/agents")],
            "name": [job["name"] for job in await daemon.get("/scheduler/jobs")],
        }
        description = narrowed(await daemon.get("/openapi.json"), known)

        async def play(who):
            found[who] = await fuzz(daemon.page, tmp_path, who, description)

        async with trio.open_nursery() as nursery:
            for who in TOKENS:
                nursery.start_soon(play, who)
        for who, ended in found.items():
            text = ended.stdout.decode()
            (tmp_path / f"{who}.txt").write_text(text)
            assert ended.returncode == 0, text[-20_000:]
        assert (await daemon.http.get("/livez")).status_code == 200
        async with httpx.AsyncClient(base_url=daemon.page) as stranger:
            assert (await stranger.get("/tasks")).status_code == 401
        posted = (await daemon.get("/tasks?limit=1"))[0]["id"]
        assert posted
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        log = daemon.log.read_text()
    assert [token for token in TOKENS.values() if token in log] == []
    assert "mistake of ours" not in log
    tasks = place.rows("select count(*) as n from actp_agent_tasks")[0]["n"]
    cases = [re.search(r"(\d[\d,]*) generated", ended.stdout.decode()) for ended in found.values()]
    figures(
        "Stateful fuzzing of the API with both tokens",
        test_cases=sum(int(case[1].replace(",", "")) for case in cases if case),
        tasks=tasks,
        seconds=trio.current_time() - began,
    )

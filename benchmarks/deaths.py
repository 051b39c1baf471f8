"""What it costs to die: calls of the model that are paid, and effects outside, for each way to die.

    python benchmarks/deaths.py                 about three minutes
    python benchmarks/deaths.py --only WORD     the ways to die that have the word in their name
    python benchmarks/deaths.py --messages DIR  with the `fake_messages.Claude` of another folder

Real daemons on a database in a file, and a Messages API that is not the project's simulated one.
One task takes eight replies. Its sixth calls two tools at once: `mail`, which is `once`, and `pay`,
which is `keyed`; both have had their effect outside when the fault comes. Where the fault comes
during a call, it is the seventh.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0
REPLIES = 8

AGENT = '''
import asyncio
import os
from pathlib import Path

from app.agents.base import DomainAgent
from app.agents.tools import JSON, current_call, tool

HERE = Path(os.environ["DEATHS_FOLDER"])


async def held():
    while not (HERE / "go").exists():
        await asyncio.sleep(0.05)


class Paying(DomainAgent):
    prompt = "You do what the task says."

    async def run_as_daemon(self, poll_interval):
        asyncio.ensure_future(self.crash_when_told())
        await super().run_as_daemon(poll_interval)

    async def crash_when_told(self):
        while not (HERE / "crash").exists():
            await asyncio.sleep(0.05)
        (HERE / "crash").unlink()
        raise RuntimeError("told to crash")

    @tool(effect="read")
    async def look(self) -> JSON:
        """Look."""
        return {"seen": "all"}

    @tool
    async def mail(self, to: str) -> JSON:
        """Send a mail."""
        with open(HERE / "mailed", "a") as outside:
            outside.write(to + "\\\\n")
        if to == "held":
            await held()
        return {"mailed": to}

    @tool(effect="keyed")
    async def pay(self, to: str) -> JSON:
        """Pay."""
        with open(HERE / "paid", "a") as outside:
            outside.write(f"{current_call().key}\\\\n")
        if to == "held":
            await held()
        return {"paid": to}
'''.replace("\\\\n", "\\n")


class Claude:
    """A Messages API whose every answer is scripted: `script(body, replies so far)`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.script: Callable[[dict[str, Any], int], dict[str, Any]] = answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append(body)
                number = len(outer.requests)
                got = outer.script(body, sum(m["role"] == "assistant" for m in body["messages"]))
                time.sleep(got.get("sleep", 0.0))
                if "status" in got:
                    self.send(got["status"], json.dumps(got["body"]), got["headers"])
                else:
                    self.send(200, _stream(got, body["model"], number), {})

            def send(self, status: int, text: str, headers: dict[str, str]) -> None:
                data = text.encode()
                kind = "text/event-stream" if status == 200 else "application/json"
                self.send_response(status)
                for name, value in {"content-type": kind, **headers}.items():
                    self.send_header(name, str(value))
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                try:
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def _stream(got: dict[str, Any], model: str, number: int) -> str:
    usage = {"input_tokens": 1000, "output_tokens": 200}
    start = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": model}
    start |= {"content": [], "stop_reason": None, "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(got["content"]):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": got["stop"], "stop_sequence": None}
    events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)


def call(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    uses = [
        {"type": "tool_use", "id": f"toolu_{time.time_ns()}_{n}", "name": name, "input": given}
        for n, (name, given) in enumerate(calls)
    ]
    return {"content": uses, "stop": "tool_use", "usage": {}}


PLAN = [
    [("look", {})],
    [("mail", {"to": "first"})],
    [("pay", {"to": "first"})],
    [("look", {})],
    [("look", {})],
    [("mail", {"to": "held"}), ("pay", {"to": "held"})],
    [("look", {})],
]


def answer(_body: dict[str, Any], said: int) -> dict[str, Any]:
    if said < len(PLAN):
        return call(*PLAN[said])
    return {"content": [{"type": "text", "text": "done"}], "stop": "end_turn", "usage": {}}


class Daemon:
    """A daemon as a process."""

    def __init__(self, folder: Path, url: str, name: str, **changes: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        mine = folder / name
        mine.mkdir(exist_ok=True)
        others = ("SOCIAL_MEDIA", "ACQUISITION", "REVENUE")
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(mine),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
            "ANTHROPIC_API_KEY": "key-of-nobody",
            "ANTHROPIC_BASE_URL": url,
            "WORKER_ID": name,
            "WORKER_DB_PATH": str(folder / "w.db"),
            "WORKER_HEALTH_PORT": str(self.port),
            "WORKER_TASK_LEASE": "3",
            "WORKER_DRAIN_TIMEOUT": "1",
            "WORKER_TIMEZONE": "UTC",
            "CONTENT_AGENT_CLASS": "paying:Paying",
            "CONTENT_AGENT_POLL_INTERVAL": "0.2",
            "SUPERVISOR_WATCH_INTERVAL": "0.5",
            "DEATHS_FOLDER": str(folder),
            **{f"ENABLE_{other}_AGENT": "no" for other in others},
            **changes,
        }
        with (mine / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.main"], cwd=mine, env=environ, stdout=log, stderr=log
            )
        wait_for(lambda: self.get("/readyz") is not None)

    def get(self, path: str) -> Any:  # noqa: ANN401  (JSON)
        """Return what is answered; None where nothing is."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as got:
                return json.load(got)
        except (OSError, ValueError):
            return None

    def post(self, path: str, body: object) -> Any:  # noqa: ANN401  (JSON)
        """Post something, and return what is answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as got:
            return json.load(got)

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)


def wait_for(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError("it does not come to be so")
        time.sleep(0.05)


class Run:
    """One task on its way through one fault."""

    def __init__(self, claude: Any, **changes: str) -> None:  # noqa: ANN401  (either of two)
        self.folder = Path(tempfile.mkdtemp(prefix="deaths-"))
        (self.folder / "paying.py").write_text(AGENT)
        self.claude = claude
        self.changes = changes
        self.begun = len(claude.requests)
        claude.script = answer
        self.daemons = [self.daemon("first")]
        task = self.daemons[0].post("/agents/task", {"agent_type": "content", "goal": "Pay."})
        self.task_id = task["id"]

    def daemon(self, name: str) -> Daemon:
        """Start a daemon."""
        return Daemon(self.folder, self.claude.url, name, **self.changes)

    def lines(self, name: str) -> list[str]:
        """Return what a tool has left outside."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def in_tools(self) -> None:
        """Wait until both tools have had their effect and hang."""
        wait_for(lambda: len(self.lines("mailed")) == 2 and len(self.lines("paid")) == 2)

    def go(self) -> None:
        """Have the tools hang no more."""
        (self.folder / "go").touch()

    def rows(self, statement: str) -> list[Any]:
        """Ask the database itself."""
        with closing(sqlite3.connect(self.folder / "w.db", timeout=30)) as db:
            found = db.execute(statement).fetchall()
            db.commit()
            return found

    def row(self) -> dict[str, Any]:
        """Wait for the task's end; what it took."""
        final = ("succeeded", "failed", "cancelled")
        status = "select status from actp_agent_tasks"
        wait_for(lambda: self.rows(status)[0][0] in final)
        time.sleep(0.5)
        paid = self.lines("paid")
        booked = self.rows("select count(*), sum(estimated) from anthropic_cost_log")[0]
        row = {
            "calls": len(self.claude.requests) - self.begun,
            "booked": booked[0],
            "estimated": booked[1] or 0,
            "mails": len(self.lines("mailed")),
            "payments asked": len(paid),
            "payments made": len(set(paid)),
            "attempts": self.rows("select attempts from actp_agent_tasks")[0][0],
            "status": self.rows(status)[0][0],
        }
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.end(signal.SIGKILL)
        return row


def no_fault(run: Run) -> None:
    run.in_tools()
    run.go()


def killed_in_a_tool(run: Run) -> None:
    run.in_tools()
    run.daemons[0].end(signal.SIGKILL)
    run.go()
    run.daemons.append(run.daemon("first"))


def killed_in_a_call(run: Run) -> None:
    run.claude.script = lambda body, said: (
        answer(body, said) | ({"sleep": 3.0} if said == 6 and len(run.daemons) == 1 else {})
    )
    run.in_tools()
    run.go()
    wait_for(lambda: len(run.claude.requests) - run.begun == 7)
    time.sleep(0.5)
    run.daemons[0].end(signal.SIGKILL)
    run.daemons.append(run.daemon("first"))


def agent_crashes(run: Run) -> None:
    run.in_tools()
    run.go()
    (run.folder / "go").unlink()
    (run.folder / "crash").touch()
    wait_for(lambda: not (run.folder / "crash").exists())
    run.go()


def process_killed(run: Run) -> None:
    run.in_tools()
    agent = run.daemons[0].get("/agents/content")
    run.go()
    os.kill(agent["pid"], signal.SIGKILL)


def drained(run: Run) -> None:
    run.in_tools()
    run.daemons[0].end(signal.SIGTERM)
    run.go()
    run.daemons.append(run.daemon("first"))


def lease_lost(run: Run) -> None:
    run.in_tools()
    run.daemons[0].process.send_signal(signal.SIGSTOP)
    run.go()
    run.daemons.append(run.daemon("second"))
    final = ("succeeded", "failed")
    wait_for(lambda: run.rows("select status from actp_agent_tasks")[0][0] in final)
    run.daemons[0].process.send_signal(signal.SIGCONT)
    time.sleep(5.0)


def handed_back(run: Run) -> None:
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "later"}}
    limited = {"status": 429, "body": error, "headers": {"retry-after": "1000"}}
    run.claude.script = lambda body, said: (
        limited if said == 6 and len(run.daemons) == 1 else answer(body, said)
    )
    run.in_tools()
    run.go()
    wait_for(lambda: "429" in str(run.rows("select error from actp_agent_tasks")[0][0]))
    run.rows("update actp_agent_tasks set not_before = null")  # the 1000 s are over
    run.daemons[0].end(signal.SIGTERM)
    run.daemons.append(run.daemon("first"))


def moved(run: Run) -> None:
    run.in_tools()
    run.daemons[0].end(signal.SIGKILL)
    run.go()
    run.daemons.append(run.daemon("elsewhere"))


WAYS: dict[str, tuple[Callable[[Run], None], dict[str, str]]] = {
    "no fault": (no_fault, {}),
    "kill -9 of the daemon, in a tool": (killed_in_a_tool, {}),
    "kill -9 of the daemon, in a call": (killed_in_a_call, {}),
    "crash of the agent, in a tool": (agent_crashes, {}),
    "kill -9 of the agent's own process": (process_killed, {"CONTENT_AGENT_ISOLATION": "process"}),
    "drain that is too short": (drained, {}),
    "lease lost (stopped for long)": (lease_lost, {}),
    "hand-back (429, retry-after)": (handed_back, {}),
    "moved: another daemon goes on": (moved, {}),
}


def main() -> None:
    claude: Any = None
    if "--messages" in sys.argv:
        sys.path[:0] = [sys.argv[sys.argv.index("--messages") + 1]]
        claude = importlib.import_module("fake_messages").Claude()
    claude = claude or Claude()
    columns: list[str] = []
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    for name, (fault, changes) in WAYS.items():
        if only not in name:
            continue
        run = Run(claude, **changes)
        try:
            fault(run)
            row = run.row()
        finally:
            for daemon in run.daemons:
                daemon.process.kill()
                daemon.process.wait()
            shutil.rmtree(run.folder)
        if not columns:
            columns = list(row)
            print("| how it dies | " + " | ".join(columns) + " |")
            print("|---" * (len(columns) + 1) + "|")
        print(f"| {name} | " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
    claude.server.shutdown()


if __name__ == "__main__":
    main()

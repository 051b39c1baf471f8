"""Traces as a collector gets them: a real receiver of OTLP, real daemons, kills."""

from __future__ import annotations

import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from daemons import until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.agents.traces import ids_of

OWN = """
import asyncio
import pathlib

from app.agents.assistant import Assistant
from app.agents.tools import tool

BEGAN = pathlib.Path("began")


class Recorder:
    def __init__(self, context):
        self.claude = Assistant(context, prompt="You look things up.", tools=[self.list_deals])

    async def run_as_daemon(self, poll_interval):
        await self.claude.work(poll_interval)

    @tool(effect="read")
    async def list_deals(self) -> dict[str, str]:
        \"\"\"List the deals.\"\"\"
        if not BEGAN.exists():
            BEGAN.touch()
            await asyncio.sleep(600)
        return {"deals": "none"}
"""


class Receiver:
    """Takes in what is exported, as any collector would."""

    def __init__(self, status=200):
        self.spans = []
        self.resources = []
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked += 1
                if status == 200:
                    assert self.path == "/v1/traces"
                    outer.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, request):
        for of_resource in request.resource_spans:
            self.resources.append(values_of(of_resource.resource.attributes))
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans

    def named(self, beginning):
        return [span for span in self.spans if span.name.startswith(beginning)]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def values_of(attributes):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def traced_place(place, receiver):
    place.use_class(OWN, "Recorder")
    for agent in ("CONTENT", "ACQUISITION", "REVENUE"):
        place.environ[f"ENABLE_{agent}_AGENT"] = "no"
    place.environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "WORKER_TASK_LEASE": "1",
    }
    return place


async def ended(daemon, task_id):
    final = {"succeeded", "failed"}
    return await daemon.until(f"/tasks/{task_id}", lambda task: task["status"] in final)


@pytest.mark.parametrize(
    "isolation", ["loop", pytest.param("thread", marks=pytest.mark.long), "process"]
)
async def test_a_task_is_one_trace_over_a_kill_down_to_its_calls(traced_place, receiver, isolation):
    traced_place.environ["SOCIAL_MEDIA_AGENT_ISOLATION"] = isolation
    async with traced_place.daemon() as daemon:
        task_id = await daemon.post("social", "List the deals")
        await until((traced_place.folder / "began").exists)
        await until(lambda: receiver.named("chat"))
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
    async with traced_place.daemon() as daemon:
        task = await ended(daemon, task_id)
        assert task["status"] == "succeeded", task
        await until(lambda: receiver.named("task "))
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0

    trace_id, root_id = ids_of(task_id)
    ours = [span for span in receiver.spans if int.from_bytes(span.trace_id) == trace_id]
    by_id = {span.span_id: span for span in ours}
    (root,) = [span for span in ours if span.name == "task social"]
    assert int.from_bytes(root.span_id) == root_id
    assert values_of(root.attributes)["actp.task.status"] == "succeeded"
    (attempt,) = [span for span in ours if span.name == "invoke_agent social"]  # of two, one lived
    assert attempt.parent_span_id == root.span_id
    assert values_of(attempt.attributes)["actp.task.attempt"] == 2

    chats = [span for span in ours if span.name.startswith("chat ")]
    assert len(chats) >= 2  # one of them by the daemon that was killed
    usage = values_of(chats[-1].attributes)
    assert usage["gen_ai.operation.name"] == "chat"
    assert usage["gen_ai.usage.output_tokens"] > 0
    assert usage["actp.cost_usd"] > 0
    (call,) = [span for span in ours if span.name == "execute_tool list_deals"]
    (conversation,) = [span for span in ours if span.name == "conversation"]
    assert values_of(conversation.attributes)["actp.conversation.resumed"] is True
    assert call.parent_span_id == conversation.span_id
    assert conversation.parent_span_id == attempt.span_id
    of_the_sdk = [span for span in ours if span.name == "anthropic.messages.create"]
    assert by_id[of_the_sdk[-1].parent_span_id].name.startswith("chat ")
    (name,) = {each["service.name"] for each in receiver.resources}
    assert name == "actp-worker"
    assert "e2e-secret-key" not in str(receiver.spans)


async def test_a_collector_that_is_away_holds_up_nothing_and_is_told_once(traced_place, receiver):
    (traced_place.folder / "began").touch()
    traced_place.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    traced_place.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "1"
    async with traced_place.daemon() as daemon:
        for _ in range(2):
            task = await ended(daemon, await daemon.post("social", "List the deals"))
            assert task["status"] == "succeeded"
        await until(lambda: daemon.logged("traces_not_sent"))
        task = await ended(daemon, await daemon.post("social", "List the deals"))
        assert task["status"] == "succeeded"
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        told = [line for line in daemon.lines if "race" in line["message"]]
        assert len(told) == 1, told


@pytest.mark.usefixtures("real_start")
async def test_without_the_variable_nothing_of_it_is_loaded(traced_place, receiver):
    traced_place.use_class(
        """
import logging
import sys

from actp_supervise import current_child


class Looker:
    async def run_as_daemon(self, poll_interval):
        loaded = [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
        logging.warning("loaded: %s", loaded)
        await current_child().stopping.wait()
""",
        "Looker",
    )
    del traced_place.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    async with traced_place.daemon() as daemon:
        await until(lambda: "loaded: []" in daemon.log.read_text())
    assert receiver.asked == 0


async def test_what_is_not_installed_is_told_in_one_line(traced_place):
    (traced_place.folder / "began").touch()
    (traced_place.folder / "sitecustomize.py").write_text(
        "import sys\nsys.modules['opentelemetry.sdk'] = None\n"
    )
    async with traced_place.daemon() as daemon:
        task = await ended(daemon, await daemon.post("social", "List the deals"))
        assert task["status"] == "succeeded"
        line = daemon.logged("not_traced")
        assert "pip install -e '.[otel]'" in line["message"]

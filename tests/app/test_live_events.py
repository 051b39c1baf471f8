"""`/events` over real sockets: live, resumed, filtered, and never waited for."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from http_daemon import make_daemon, served

from app.event_kinds import EventKind
from app.web.live import Live


@pytest.fixture
def daemon(store):
    return make_daemon(store)


class Reader:
    """A reader of server-sent events on a connection of its own: gives (event, data, id)."""

    def __init__(self, stream):
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.text = ""
        self.response = None

    async def ask(self, client, address, headers):
        fields = {"Host": "localhost", **headers}
        request = h11.Request(method="GET", target=address, headers=list(fields.items()))
        await self.stream.send_all(self.http.send(request) + self.http.send(h11.EndOfMessage()))
        self.response = await self.next_part()

    async def next_part(self):
        while (part := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some())
        return part

    async def block(self):
        """Return the next lines up to an empty one; None at the end."""
        while "\n\n" not in self.text:
            part = await self.next_part()
            if not isinstance(part, h11.Data):
                return None
            self.text += part.data.decode()
        block, _, self.text = self.text.partition("\n\n")
        return block

    def __aiter__(self):
        return self

    async def __anext__(self):
        while (block := await self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in fields:
                return fields["event"], json.loads(fields["data"]), fields.get("id")
        raise StopAsyncIteration


@asynccontextmanager
async def reading(client, address="/events", **headers):
    """Read events for the time of the block."""
    with trio.fail_after(60):
        async with await trio.open_tcp_stream("127.0.0.1", client.base_url.port) as stream:
            reader = Reader(stream)
            await reader.ask(client, address, headers)
            assert reader.response.status_code == 200
            yield reader


async def until_read_by(daemon, readers):
    with trio.fail_after(60):
        while daemon.events.readers != readers:  # noqa: ASYNC110  (sockets set no event)
            await trio.sleep(0.01)


async def test_what_happens_is_told_as_it_happens(daemon):
    async with served(daemon) as client, reading(client) as events:
        await until_read_by(daemon, 1)
        daemon.events.publish(
            EventKind.CHILD_CRASHED, "social crashed", agent_id="social", crashes=2
        )
        kind, data, event_id = await anext(events)
        assert kind == "child_crashed"
        assert (data["agent_id"], data["crashes"], data["text"]) == ("social", 2, "social crashed")
        assert event_id == f"{daemon.events.start}-1"


async def test_a_task_that_is_posted_is_told_of(daemon):
    async with served(daemon) as client, reading(client) as events:
        await until_read_by(daemon, 1)
        body = {"agent_type": "content", "goal": "Write."}
        task_id = (await client.post("/agents/task", json=body)).json()["id"]
        kind, data, _ = await anext(events)
        assert (kind, data["task_id"], data["agent_id"]) == ("task_queued", task_id, "content")


async def test_only_what_is_wanted_is_told(daemon):
    async with served(daemon) as client, reading(client, "/events?agent_id=content") as events:
        await until_read_by(daemon, 1)
        daemon.events.publish(EventKind.STORE_AWAY, "", agent_id="social")
        daemon.events.publish(EventKind.STORE_BACK, "", agent_id="content")
        assert (await anext(events))[0] == "store_back"


async def test_a_reader_goes_on_where_it_left_off(daemon):
    for number in range(5):
        daemon.events.publish(EventKind.STORE_BACK, str(number))
    last = {"Last-Event-ID": f"{daemon.events.start}-3"}
    async with served(daemon) as client, reading(client, **last) as events:
        assert [(await anext(events))[1]["id"] for _ in range(2)] == [4, 5]


async def test_a_reader_from_an_earlier_start_is_told_of_the_gap_and_begins_anew(daemon):
    daemon.events.publish(EventKind.STORE_BACK, "one")
    last = {"Last-Event-ID": "deadbeef-900"}
    async with served(daemon) as client, reading(client, **last) as events:
        assert (await anext(events))[0] == "gap"
        assert (await anext(events))[1]["id"] == 1


async def test_what_is_not_kept_any_more_is_a_gap(daemon):
    for number in range(1200):
        daemon.events.publish(EventKind.STORE_BACK, str(number))
    last = {"Last-Event-ID": f"{daemon.events.start}-3"}
    async with served(daemon) as client, reading(client, **last) as events:
        assert (await anext(events))[0] == "gap"
        assert (await anext(events))[1]["id"] == 201


async def test_the_last_events_can_be_asked_for(daemon):
    for number in range(6):
        agent_id = "content" if number % 2 else "social"
        daemon.events.publish(EventKind.STORE_BACK, str(number), agent_id=agent_id)
    address = "/events?recent=2&agent_id=content"
    async with served(daemon) as client, reading(client, address) as events:
        assert [(await anext(events))[1]["id"] for _ in range(2)] == [4, 6]


@pytest.mark.parametrize("query", ["recent=-1", "recent=many", "agent_id=a b", "more=1"])
async def test_a_wrong_query_is_refused(daemon, query):
    async with served(daemon) as client:
        assert (await client.get(f"/events?{query}")).status_code == 422


@pytest.mark.parametrize("last", ["", "x", "-", "1-2-3", "9" * 400, "a-" + "9" * 300])
async def test_a_senseless_last_id_is_no_error(daemon, last):
    async with served(daemon) as client, reading(client, **{"Last-Event-ID": last}) as events:
        assert (await anext(events))[0] == "gap"


async def test_an_endless_last_id_is_no_error(daemon):
    last = {"Last-Event-ID": f"{daemon.events.start}-{'9' * 5000}"}
    async with served(daemon) as client, reading(client, **last) as events:
        assert (await anext(events))[0] == "gap"


async def test_a_head_does_not_hang(daemon):
    async with served(daemon) as client:
        assert (await client.head("/events")).status_code == 200
        # On the same connection, which a stream would hold.
        assert (await client.get("/livez")).status_code == 200
        assert daemon.events.readers == 0


async def test_silence_is_filled_so_that_a_dead_connection_is_noticed(daemon):
    live = Live(daemon.events, ping_every=0.05)
    async with served(daemon, live=live) as client, reading(client) as reader:
        assert await reader.block() == "retry: 2000"
        assert await reader.block() == ": ping"
        assert await reader.block() == ": ping"


async def test_200_readers_all_get_everything_and_the_server_stays_quick(daemon):
    got = []

    async def follow(client):
        async with reading(client) as events:
            got.append([(await anext(events))[1]["id"] for _ in range(20)])

    async with served(daemon) as client, trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(follow, client)
        with trio.fail_after(60):
            await until_read_by(daemon, 200)
        for number in range(20):
            daemon.events.publish(EventKind.STORE_BACK, str(number))
        with trio.fail_after(60):
            assert (await client.get("/livez")).status_code == 200
    assert got == [list(range(1, 21))] * 200


async def test_a_reader_that_reads_nothing_is_cut_off_and_costs_no_memory(daemon):
    async with served(daemon) as client:
        host, port = client.base_url.host, client.base_url.port
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect((host, port))
            stalled.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until_read_by(daemon, 1)
            with trio.fail_after(60):
                while daemon.events.readers:
                    for _ in range(100):
                        daemon.events.publish(EventKind.STORE_BACK, "a" * 500)
                    await trio.sleep(0.01)
            assert (await client.get("/livez")).status_code == 200


async def test_a_reader_that_is_let_go_is_not_told_that_the_daemon_stops(daemon):
    async with served(daemon) as client, reading(client) as events:
        await until_read_by(daemon, 1)
        for number in range(300):  # with no time to read in between
            daemon.events.publish(EventKind.STORE_BACK, str(number))
        assert [kind async for kind, *_ in events] == []


async def test_no_more_readers_than_can_be_served(daemon):
    live = Live(daemon.events, most_readers=1)
    async with served(daemon, live=live) as client, reading(client):
        await until_read_by(daemon, 1)
        assert (await client.get("/events")).status_code == 503


async def test_a_reader_that_goes_away_is_forgotten(daemon):
    async with served(daemon) as client:
        async with reading(client):
            await until_read_by(daemon, 1)
        await until_read_by(daemon, 0)


async def test_when_the_daemon_stops_readers_are_told_and_the_stream_ends(daemon):
    async with served(daemon) as client, reading(client) as events:
        await until_read_by(daemon, 1)
        daemon.events.close()
        with trio.fail_after(60):
            assert (await anext(events))[0] == "bye"
            assert await anext(events, None) is None


async def test_no_site_of_others_may_read_the_events(daemon):
    async with served(daemon) as client:
        answer = await client.get("/events", headers={"Host": "evil.example"})
        assert answer.status_code == 421
        async with reading(client) as events:
            headers = dict(events.response.headers)
            assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
            assert headers[b"cache-control"] == b"no-store"
            assert b"access-control-allow-origin" not in headers

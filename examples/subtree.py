"""A subtree that gives up is an ordinary crash one level up, and is built anew from there.

Run it: python examples/subtree.py
"""

import trio

from actp_supervise import RestartLimit, Strategy, current_child, open_supervisor
from actp_supervise.events import ChildStarted, Event, RestartLimitReached


async def connection(task_status: trio.TaskStatus[str]) -> None:
    """Be ready at once, and hold until asked to stop."""
    task_status.started("connected")
    await current_child().stopping.wait()


async def reader(flaws: list[str]) -> None:
    """Read over the connection; fails as long as there are flaws left."""
    await trio.sleep(0.05)
    if flaws:
        raise ConnectionError(flaws.pop())
    await current_child().stopping.wait()


async def feed(flaws: list[str]) -> None:
    """A subtree: the reader is of no use without its connection, so they restart together."""
    async with open_supervisor(
        name="feed", strategy=Strategy.REST_FOR_ONE, limit=RestartLimit(1, within=60.0)
    ) as subtree:
        await subtree.start(connection, name="connection")
        subtree.start_soon(reader, flaws, name="reader")


def report(event: Event) -> None:
    if isinstance(event, ChildStarted | RestartLimitReached):
        print(event)


async def main() -> None:
    async with open_supervisor(name="root", on_event=report) as supervisor:
        supervisor.start_soon(feed, ["reset by peer", "timed out", "no route"], name="feed-keeper")
        await trio.sleep(0.5)
        print(supervisor.tree())
        await supervisor.shutdown()


if __name__ == "__main__":
    trio.run(main)

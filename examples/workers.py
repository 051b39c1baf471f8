"""Three workers share a queue; one of them trips over a bad item, and is started again.

Run it: python examples/workers.py
"""

import trio

from actp_supervise import RestartLimit, current_child, open_supervisor
from actp_supervise.events import ChildCrashed, Event


async def work(items: trio.MemoryReceiveChannel[int]) -> None:
    child = current_child()
    while not child.stopping:
        with child.cancel_on_stop():  # waiting for an item is idle, working on it is not
            item = await items.receive()
            if item == 13:
                raise ValueError(f"cannot work on {item}")
            print(f"{child.name} takes {item}")
            await trio.sleep(0.02)


def report(event: Event) -> None:
    if isinstance(event, ChildCrashed):
        print(f"{event.path[-1]} crashed: {event.error}; it is started again")


async def main() -> None:
    give, take = trio.open_memory_channel[int](0)
    async with open_supervisor(
        name="workers", limit=RestartLimit(max_restarts=5, within=60.0), on_event=report
    ) as supervisor:
        for number in range(3):
            supervisor.start_soon(work, take, name=f"worker-{number}")
        for item in range(20):
            await give.send(item)
        print(supervisor.tree())
        await supervisor.shutdown()


if __name__ == "__main__":
    trio.run(main)

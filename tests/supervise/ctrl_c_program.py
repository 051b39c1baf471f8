"""A program with a tree, to be interrupted by a real signal; its arguments add to it."""

import sys

import trio

from actp_supervise import current_child, open_supervisor


def say(text):
    print(text, flush=True)


async def polite(name, *, task_status):
    try:
        with current_child().cancel_on_stop():
            task_status.started()
            await trio.sleep_forever()
    finally:
        say(f"{name} gone")


async def stubborn(*, task_status):
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        say("stubborn gone")


async def busy(*, task_status):
    task_status.started()
    say("ready")  # its own code will run when the signal comes
    while True:
        for _ in range(100_000):
            pass
        await trio.lowlevel.checkpoint()


async def start_stubborn(supervisor):
    await supervisor.start(stubborn, shutdown_timeout=600.0)
    await supervisor.start(polite, "witness")  # that the stop has begun


async def subtree(*, task_status):
    async with open_supervisor(name="sub") as supervisor:
        await supervisor.start(polite, "below")
        if "deep" in sys.argv:
            await start_stubborn(supervisor)
        task_status.started()


async def main():
    async with open_supervisor(name="root") as supervisor:
        await supervisor.start(polite, "first")
        await supervisor.start(subtree)
        await supervisor.start(polite, "last")
        if "stubborn" in sys.argv:
            await start_stubborn(supervisor)
        if "busy" in sys.argv:
            await supervisor.start(busy, shutdown_timeout=0.0)
        else:
            say("ready")
        if "wait" in sys.argv:
            await trio.sleep_forever()


try:
    trio.run(main)
except BaseException as error:  # noqa: BLE001
    say(f"left by {error!r}")

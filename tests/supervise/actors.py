"""Children that do as their arguments say, and notes of what happened."""

from __future__ import annotations

import math

import trio


class Crash(Exception):
    """What a child of these tests crashes with."""


class Actor:
    """A child's function: each run lives as long as told, then crashes; the last lives on.

    It notes ``("+name", time)`` when a run begins and ``("-name", time)`` when it is gone.

    Args:
        name: Becomes the child's name.
        record: The list of notes.
        lives: Seconds after which the first runs crash; later runs live on.
        ready_after: Seconds until a run says that it is ready.
        cleanup: Seconds for which it holds out, shielded, once it is cancelled or crashes.
    """

    def __init__(self, name, record, *lives, ready_after=0.0, cleanup=0.0):
        self.__name__ = name
        self.record = record
        self.lives = list(lives)
        self.ready_after = ready_after
        self.cleanup = cleanup
        self.runs = 0

    def note(self, sign):
        self.record.append((sign + self.__name__, trio.current_time()))

    async def __call__(self, *, task_status=trio.TASK_STATUS_IGNORED):
        self.runs += 1
        self.note("+")
        try:
            await trio.sleep(self.ready_after)
            task_status.started(self.runs)
            await trio.sleep(self.lives.pop(0) if self.lives else math.inf)
            raise Crash(self.__name__)
        finally:
            if self.cleanup:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.cleanup)
            self.note("-")


async def crash_at_once():
    raise Crash


async def crash_after(seconds):
    await trio.sleep(seconds)
    raise Crash


async def return_after(seconds):
    await trio.sleep(seconds)


async def live_on():
    await trio.sleep_forever()


async def ready_and_live_on(*, task_status):
    task_status.started("ready")
    await trio.sleep_forever()


async def never_ready(*, task_status):
    await trio.sleep_forever()


async def hold_out(seconds):
    """Live on; once cancelled, swallow that and return so many seconds later."""
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)


def states(supervisor):
    """The name and state of each child, in start order."""
    return {child.name: str(child.state) for child in supervisor.children}


class Log(list):
    """Events, to be given as `on_event`."""

    def __call__(self, event):
        self.append(event)

    def of(self, *actions):
        """Who, what and when, of events of these kinds or of all."""
        return [
            (event.path[-1], event.action, event.time)
            for event in self
            if not actions or event.action in actions
        ]

    def last(self, action):
        return [event for event in self if event.action == action][-1]

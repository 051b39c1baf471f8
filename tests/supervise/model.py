"""The rules of the tree once more, small and pure, to hold the real tree against.

Written from the reference of rules; it imports nothing of the library. `World` is the clock and the
record of what happened, `Tree` one supervisor, `Node` one child. Nothing here waits: what is next
for a tree is looked up afresh (`Tree.step` now, `Tree.timers` later).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from script import Puppet

OVERDUE_AFTER = 5.0
LISTENER_TIMEOUT = 5.0


class Ambiguous(Exception):
    """Two things are due at one instant, which Trio may do in either order."""


OK = ("ok", None)
ERRORS = {
    "crash": "Crash",
    "give_up": "DoNotRestart",
    "exit": "SystemExit",
    "return": None,
    "cancelled": None,
}


@dataclass(eq=False)
class Node:
    """One child. It is live from the decision to run it, its backoff included, to its end."""

    puppet: Puppet
    path: tuple[str, ...]
    state: str = "starting"
    restarts: int = 0
    crashes: int = 0
    last_error: str | None = None
    started_at: float | None = None
    restart_at: float | None = None
    runs: int = 0
    crash_times: list[float] = field(default_factory=list)
    held: bool = False  # stopped by a caller
    dropped: bool = False  # to leave the list at its end
    starter: int | None = None  # the caller of start, until the child was ready once
    awaits_next_run: bool = False  # what the callers wait for is not the run under way
    waiters: list[int] = field(default_factory=list)  # the callers of start and restart
    enders: list[int] = field(default_factory=list)  # the callers of stop and remove

    live: bool = False
    ready: bool = False
    intent: str | None = None  # why it was asked to end: stop, restart, group, stalled
    asked: bool = False
    heeds: bool = False  # has looked whether it is asked to stop
    cancel_at: float | None = None
    cancelled: bool = False
    cleaning_until: float | None = None
    overdue: bool = False
    overdue_after: float = OVERDUE_AFTER
    beat_at: float = 0.0
    waits_for_shutdown: bool = False
    inner: Tree | None = None

    @property
    def listens(self):
        """Whether the code inside waits to be told what to do."""
        began = self.live and self.state != "backing_off" and self.inner is None
        return began and self.cleaning_until is None and not self.waits_for_shutdown

    def understands(self, what):
        """Whether to tell it that means anything."""
        if what == "ready":
            return self.listens and not self.ready
        return self.listens and (what != "beat" or self.puppet.watchdog is not None)


class World:
    """The clock, what happened, and what became of each call."""

    def __init__(self, options):
        self.now = 0.0
        self.events = []
        self.outcomes = {}
        self.trees = []
        self.unordered = False  # whether several children were asked to stop at once
        self.left_by = None  # what left the root's block
        self.root = Tree(self, ("root",), options)
        self.nested = None  # the newest tree in a child

    def emit(self, path, action, detail=None):
        self.events.append((self.now, path, action, detail))

    def settle(self):
        """Do all that need not wait."""
        while any(tree.step() for tree in tuple(self.trees)):
            pass

    def sleep(self, seconds):
        """Let time pass, and all that is due meanwhile happen."""
        end = self.now + seconds
        while due := [(*timer, tree) for tree in self.trees for timer in tree.timers()]:
            moment = min(moment for moment, *_ in due)
            if moment > end:
                break
            next_due = [what for what in due if what[0] == moment]
            if not (len(next_due) == 1 or all(tree.stops_together for *_, tree in next_due)):
                raise Ambiguous
            self.now = moment
            _, act, args, _ = next_due[0]
            act(*args)
            self.settle()
        self.now = end

    def forget(self, caller):
        """The caller of something was cancelled."""
        for tree in tuple(self.trees):
            tree.forget(caller)

    def tell(self, node, what):
        """Have the code inside a child do something."""
        tree = next(tree for tree in self.trees if node in tree.nodes)
        tree.tell(node, what)


class Tree:
    """One supervisor."""

    def __init__(self, world, path, options, owner=None, above=None):
        self.world = world
        self.path = path
        self.options = options
        self.owner = owner
        self.above = above
        self.nodes = []
        self.restart_times = []
        self.group = []  # the children that are to be restarted together
        self.group_at = 0.0
        self.group_stopping = None
        self.group_starting = None
        self.body_left = False
        self.stopping = False
        self.closed = False
        self.fatal = self.failure = self.body_error = None  # what will leave the block
        self.callers = []  # of shutdown
        world.trees.append(self)

    @property
    def stops_together(self):
        return self.stopping and self.options.shutdown_order == "together"

    def find(self, name):
        return next((node for node in self.nodes if node.puppet.name == name), None)

    def view(self):
        """What is to be seen of the children."""
        return [
            {
                "name": node.puppet.name,
                "state": node.state,
                "restarts": node.restarts,
                "crashes": node.crashes,
                "last_error": node.last_error,
                "started_at": node.started_at,
                "restart_at": self.group_at if self._waits_with_group(node) else node.restart_at,
                "overdue": node.overdue,
            }
            for node in self.nodes
        ]

    def _waits_with_group(self, node):
        return node in self.group and not node.live

    # What callers ask for; `caller` is the number under which the outcome is noted.

    def start(self, puppet, caller):
        if self.stopping:
            self._outcome(caller, "SupervisorClosedError")
        elif self.find(puppet.name) is not None:
            self._outcome(caller, "DuplicateChildError")
        else:
            node = Node(puppet, (*self.path, puppet.name))
            self.nodes.append(node)
            node.crash_times = [self.world.now - age for age in puppet.crash_ages]
            if puppet.reports_ready:
                node.starter = caller
                node.waiters.append(caller)
            else:
                self._outcome(caller, OK)
            if puppet.autostart:
                self._begin(node)
            else:
                node.state = "stopped"
                node.held = True

    def stop(self, name, caller):
        self._stop_or_remove(name, caller)

    def remove(self, name, caller):
        self._stop_or_remove(name, caller, remove=True)

    def _stop_or_remove(self, name, caller, *, remove=False):
        node = self.find(name)
        if self.closed:
            self._outcome(caller, "SupervisorClosedError")
        elif node is None:
            self._outcome(caller, "ChildNotFoundError")
        else:
            node.dropped = node.dropped or remove
            node.enders.append(caller)
            self._stop(node)

    def restart(self, name, caller):
        node = self.find(name)
        if self.closed or (node is not None and self.stopping):
            self._outcome(caller, "SupervisorClosedError")
        elif node is None or node.dropped:
            self._outcome(caller, "ChildNotFoundError")
        else:
            node.held = False
            node.waiters.append(caller)
            node.awaits_next_run = node.live and node.state != "backing_off"
            if node in self.group:
                node.intent = "group" if node.intent == "stop" else node.intent
                self.group_at = min(self.group_at, self.world.now)
            elif not node.live:
                self._begin(node)
            elif node.state == "backing_off":
                self._perform(node)
            else:
                self._ask(node, "restart")

    def shutdown(self, caller):
        self._begin_stop()
        if self.closed:
            self._outcome(caller, OK)
        else:
            self.callers.append(caller)

    def forget(self, caller):
        """With the caller of `start` goes the child that nobody else knows."""
        for node in tuple(self.nodes):
            if caller == node.starter and node.waiters:
                node.waiters.remove(caller)
                node.dropped = True
                self._stop(node, timeout=0.0)
            for callers in (node.waiters, node.enders):
                if caller in callers:
                    callers.remove(caller)
        if caller in self.callers:
            self.callers.remove(caller)

    def leave(self):
        """The block's body ends."""
        self.body_left = True

    def fail(self):
        """The block's body fails, if it is still there: a stop cancels it."""
        if not self.body_left and not self.stopping:
            self.body_left = True
            self.body_error = "BodyError"
            self._begin_stop()

    def cancel(self):
        """The block is cancelled from outside."""
        self._begin_stop()

    def tell(self, node, what):
        """Have the code inside a child do something."""
        if what == "beat":
            node.beat_at = self.world.now
        elif what == "stop_me":
            self._stop(node, timeout=0.0)
        elif what == "shutdown":
            node.waits_for_shutdown = not node.asked
            node.heeds = True
            self._begin_stop()
        elif what != "ready":
            self._end(node, what)
        elif not node.ready:
            self._ready(node, value=node.runs)
            self.world.emit(node.path, "child_ready")

    # What happens next.

    def step(self):
        """Do one thing that need not wait; say whether there was one."""
        if self.closed:
            return False
        if self.stopping:
            return self._stop_next()
        if self.group:
            return self._restart_next()
        self.group_at = 0.0
        if self.body_left and not any(node.live for node in self.nodes):
            self._begin_stop()
            return True
        return False

    def timers(self):
        """Yield what is due at a later moment: the moment, a function, its arguments."""
        if self.group and not self._group_waits_for_member():
            yield self.group_at, self.step, ()
        for node in self.nodes:
            if not node.live:
                continue
            if node.state == "backing_off":
                yield node.restart_at, self._perform, (node,)
            if node.cancel_at is not None and not node.cancelled:
                yield node.cancel_at, self._cancel, (node,)
            if node.cancelled:
                yield node.cancel_at + node.overdue_after, self._report_overdue, (node,)
            if node.cleaning_until is not None:
                yield node.cleaning_until, self._end, (node, node.puppet.after_cleanup)
            if node.puppet.watchdog is not None and node.ready and node.intent is None:
                yield node.beat_at + node.puppet.watchdog, self._stall, (node,)

    def _stop_next(self):
        live = [node for node in self.nodes if node.live]
        if not live:
            self._close()
            return True
        if self.stops_together:
            self.world.unordered = True
        else:
            live = live[-1:]
        unasked = [node for node in live if not node.asked]
        for node in unasked:
            self._ask(node, "stop")
        return bool(unasked)

    def _restart_next(self):
        members = [node for node in self.nodes if node in self.group]
        live = [node for node in members if node.live]
        if live:
            if self.group_stopping is not None:
                return False
            self.group_stopping = live[-1]
            self._ask(live[-1], "group")
        elif self._group_waits_for_member() or self.world.now < self.group_at:
            return False
        else:
            self.group_starting = members[0]
            self.group.remove(members[0])
            if members[0].puppet.subtree is not None and len(members) > 1:
                # What its subtree starts and the next member begin at once, in any order.
                self.world.unordered = True
            self._begin(members[0])
        return True

    def _group_waits_for_member(self):
        last = self.group_starting
        awaited = last is not None and (
            last.state == "starting" or (last.state == "stopping" and last.intent == "restart")
        )
        return awaited or any(node.live for node in self.group)

    # A run begins.

    def _begin(self, node, delay=0.0):
        node.live = True
        node.ready = node.asked = node.heeds = node.cancelled = node.overdue = False
        node.intent = node.cancel_at = node.cleaning_until = None
        node.overdue_after = OVERDUE_AFTER
        if delay:
            node.state = "backing_off"
            node.restart_at = self.world.now + delay
        else:
            self._perform(node)

    def _perform(self, node):
        if node.started_at is not None:
            node.restarts += 1
        node.started_at = self.world.now
        node.restart_at = None
        node.awaits_next_run = False
        node.runs += 1
        node.state = "starting"
        self.world.emit(node.path, "child_started", node.restarts)
        if not node.puppet.reports_ready:
            self._ready(node, value=None)
        if node.puppet.subtree is not None:
            inner = Tree(
                self.world, (*node.path, "sub"), node.puppet.subtree.options, node, above=self
            )
            node.inner = self.world.nested = inner
            node.heeds = True
            if node.puppet.subtree.puppet is not None:
                inner.start(node.puppet.subtree.puppet, caller=None)
                inner.leave()
            return
        gets_ready, end = node.puppet.opening(node.runs)
        if gets_ready:
            self.tell(node, "ready")
        if end:
            self._end(node, end)
        else:
            node.heeds = node.puppet.when_asked != "ignore"

    def _ready(self, node, value):
        node.ready = True
        node.beat_at = self.world.now
        if not node.asked:
            node.state = "running"
        if not self._runs_again(node):
            node.starter = None
            self._resolve(node, ("ok", value))

    def _runs_again(self, node):
        in_group = node in self.group and node.puppet.restart != "temporary"
        return node.awaits_next_run or (in_group and node.intent != "stop")

    # A run ends.

    def _end(self, node, how):
        error = node.puppet.error if how == "crash" else ERRORS.get(how, how)
        was_ready, intent, enders = node.ready, node.intent, node.enders
        if self.group_stopping is node:
            self.group_stopping = None
        node.live = node.overdue = False
        node.restart_at = node.inner = None
        node.enders = []
        if error is not None and "SystemExit" in error:
            node.state = "failed"
            self.fatal = self.fatal or error
            self._begin_stop()
            self._over(node)
        elif intent in ("stop", "restart", "group"):
            self._ended_as_asked(node, intent, error)
        elif intent == "stalled":
            self._ended_by_itself(node, "Stalled")
        elif not was_ready and node.waiters and not node.awaits_next_run:
            self._start_failed(node, error or "RuntimeError")
        else:
            self._ended_by_itself(node, error if was_ready else error or "RuntimeError")
        for caller in enders:
            self._outcome(caller, OK)

    def _ended_as_asked(self, node, intent, error):
        node.state = "stopped"
        node.last_error = error or node.last_error
        self.world.emit(node.path, "child_stopped", error)
        if node in self.group and intent != "stop" and node.puppet.restart != "temporary":
            node.state = "backing_off"
        elif node not in self.group and intent == "restart" and not self.stopping:
            self._begin(node)
        else:
            self._over(node)

    def _start_failed(self, node, error):
        """The caller who waits for it to get ready deals with the error."""
        if error == "CancelledError":  # would look like the caller's own
            error = "SupervisionError"
        node.state = "failed"
        node.last_error = error
        self._resolve(node, error)
        self.world.emit(node.path, "child_failed", error)
        self._over(node)

    def _ended_by_itself(self, node, error):
        world, restart = self.world, node.puppet.restart
        node.last_error = error or node.last_error
        if error is None:
            node.state = "finished"
            world.emit(node.path, "child_finished")
        else:
            node.state = "failed"
            if error != "DoNotRestart":
                node.crashes += 1
                world.emit(node.path, "child_crashed", (error, node.crashes))
        restarts = restart == "permanent" or (restart in ("transient", "own") and error is not None)
        if restarts and error != "DoNotRestart":
            self._schedule_restart(node)
            return
        if error is not None:
            world.emit(node.path, "child_failed", error)
        elif node in self.group and restart != "temporary":
            node.state = "backing_off"
            return
        self._over(node, by_itself=True)

    def _schedule_restart(self, node):
        now, limit = self.world.now, self.options.max_restarts
        if self.stopping:
            self._over(node)
            return
        if node not in self.group:
            self.restart_times.append(now)
        recent = [time for time in self.restart_times if now - time <= self.options.within]
        if limit is not None and len(recent) > limit:
            self.world.emit(node.path, "restart_limit_reached", limit)
            self.failure = "RestartLimitExceeded"
            self._over(node)
            self._begin_stop()
            return
        delay = self._delay(node)
        self.world.emit(node.path, "restart_scheduled", delay)
        if self.options.strategy == "one_for_one":
            self._begin(node, delay)
        else:
            self._restart_group(node, now + delay)

    def _delay(self, node):
        now, backoff = self.world.now, node.puppet.backoff
        node.crash_times.append(now)
        recent = [time for time in node.crash_times if now - time <= backoff.window]
        if node.puppet.restart == "own":
            return node.puppet.own_delay
        paid = len(recent) - backoff.free_restarts
        return min(backoff.maximum, backoff.initial * 2.0 ** (paid - 1)) if paid > 0 else 0.0

    def _restart_group(self, node, moment):
        affected = self.nodes
        if self.options.strategy == "rest_for_one":
            affected = affected[affected.index(node) :]
        for member in affected:
            stays_out = not member.live and (member.held or member.state == "failed")
            if member not in self.group and (member is node or not stays_out):
                self.group.append(member)
        self.group_at = max(self.group_at, moment)
        for member in self.group:
            if not member.live:
                member.state = "backing_off"

    def _over(self, node, *, by_itself=False):
        """A child has ended, and nothing will start it again by itself."""
        if self.stopping:
            self._resolve(node, "SupervisorClosedError")
        elif node.dropped:
            self._resolve(node, "ChildNotFoundError")
        else:
            self._resolve(node, "SupervisionError")
        if node in self.group:
            self.group.remove(node)
        if node.dropped or node.starter is not None or node.puppet.restart == "temporary":
            self.nodes = [other for other in self.nodes if other is not node]
        if by_itself and node.puppet.significant and not self.stopping:
            others = [n for n in self.nodes if n.live or n in self.group]
            left = [n for n in others if n.puppet.significant]
            policy = self.options.auto_shutdown
            if policy == "any_significant" or (policy == "all_significant" and not left):
                self._begin_stop()

    # Stopping.

    def _stop(self, node, timeout=None):
        node.held = True
        if node.live:
            self._ask(node, "stop", timeout)
        else:
            self._stop_waiting(node)

    def _stop_waiting(self, node):
        """Stop a child that does not run, and perhaps waits to be started again."""
        enders, node.enders = node.enders, []
        if node.state == "backing_off":
            node.state = "stopped"
            node.live = False
            node.restart_at = None
            self.world.emit(node.path, "child_stopped", None)
        self._over(node)
        for caller in enders:
            self._outcome(caller, OK)

    def _ask(self, node, intent, timeout=None):
        if intent == "group" and node.intent in ("stop", "stalled"):
            return
        node.intent = intent
        if node.asked:
            if timeout == 0.0:
                self._cancel(node)
            return
        if node.state == "backing_off":
            self._stop_waiting(node)
            return
        timeout = self._time_to_stop(node) if timeout is None else timeout
        self.world.emit(node.path, "stop_requested", timeout)
        node.asked = True
        node.waits_for_shutdown = False
        node.state = "stopping"
        if not node.cancelled:
            node.cancel_at = self.world.now + timeout
        if node.inner is not None:
            node.inner._begin_stop()
        elif node.cleaning_until is not None:
            return
        elif timeout == 0.0:
            self._cancel(node)
        elif node.puppet.when_asked != "ignore":
            self._end(node, "crash" if node.puppet.when_asked == "crash" else "return")

    def _time_to_stop(self, node):
        if node.puppet.timeout is not None:
            return node.puppet.timeout
        return LISTENER_TIMEOUT if node.heeds else 0.0

    def _cancel(self, node):
        if node.cancelled:
            return
        node.cancelled = True
        node.waits_for_shutdown = False
        node.cancel_at = self.world.now
        if node.inner is not None:
            node.inner.cancel()
        elif node.puppet.cleanup:
            node.cleaning_until = self.world.now + node.puppet.cleanup
        else:
            self._end(node, node.puppet.after_cleanup)

    def _report_overdue(self, node):
        node.overdue = True
        self.world.emit(node.path, "stop_overdue", node.overdue_after)
        node.overdue_after *= 2

    def _stall(self, node):
        self.world.emit(node.path, "child_stalled", node.puppet.watchdog)
        node.intent = "stalled"
        node.state = "stopping"
        self._cancel(node)

    def _begin_stop(self):
        if self.stopping:
            return
        self.stopping = True
        self.body_left = True
        self.group = []
        for node in [node for node in self.nodes if node.state == "backing_off"]:
            self._stop_waiting(node)

    def _close(self):
        self.closed = True
        self.world.trees.remove(self)
        errors = [e for e in (self.fatal, self.failure, self.body_error) if e is not None]
        self.world.emit(self.path, "supervisor_stopped", errors[0] if errors else None)
        for caller in self.callers:
            self._outcome(caller, OK)
        left_by = "+".join(sorted(errors))
        if self.above is None:
            self.world.left_by = left_by
        else:
            self.above._end(self.owner, left_by or "return")

    # Callers.

    def _outcome(self, caller, outcome):
        if caller is not None:
            self.world.outcomes[caller] = outcome

    def _resolve(self, node, outcome):
        """Give all who wait for the child's next run the outcome."""
        for caller in node.waiters:
            self._outcome(caller, outcome)
        node.waiters = []

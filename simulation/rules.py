"""What holds always, checked at each step of a simulation and at its end.

The rules know the daemon by its effects alone: rows as triggers see them change, what its web
application answers, what Claude was asked, and when it exits.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import trio

from app.agents.spec import AGENT_SPECS
from app.reasons import ReasonKind
from app.routine import TIMEOUT
from app.status import HealthState

from .due import due_moments
from .life import current_verb
from .money import Money
from .outside import Outside
from .pace import stretch
from .plan import CLAUDE, What
from .promises import Broken, Rule
from .talks import FINAL, Talks

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from app.event_log import LoggedEvent
    from app.reasons import Name, Reason
    from app.status import Health

    from .life import Life
    from .plan import Step
    from .world import World


DRAIN_TIME: Final = 30.0 + 25.0
"""Seconds from the signal to the exit: to drain, and then some to cancel and to write it down."""

NOTICED: Final = 60.0
"""Seconds after which health knows that the store is away."""

HEALED: Final = 3.5 * 3600.0
"""Seconds of calm after which nothing may be wrong any more; a task waits an hour at most."""

GRACE: Final = 3600.0
"""Seconds by which a routine may be late (`app.routine.MISFIRE_GRACE`)."""

RETENTION: Final = 80.0
"""Days for which all is kept that the rules look up in the end."""

MOST_TASKS: Final = 150
"""Tasks of Trio's that a daemon with four agents has, with nothing to do."""

_LASTING: Final = frozenset(
    {What.STORE_AWAY, What.STORE_AWAY_FOR_ALL, What.STORE_SLOW, What.STORE_TORN, What.BLOCK}
)
"""What lasts for its amount."""

_TRIGGERS: Final = """
create temp trigger seen_task_new after insert on actp_agent_tasks begin
    select observe_task(new.id, null, new.status, null, null, new.settled_token,
        new.attempts, new.max_attempts); end;
create temp trigger seen_task after update of status on actp_agent_tasks begin
    select observe_task(new.id, old.status, new.status, old.instance, old.lease_token,
        new.settled_token, new.attempts, new.max_attempts); end;
create temp trigger seen_task_gone after delete on actp_agent_tasks begin
    select observe_task(old.id, old.status, null, null, null, null, 0, 0); end;
create temp trigger seen_run after insert on actp_agent_runs begin
    select observe_run(new.agent_id, new.instance); end;
create temp trigger seen_run_end after update of outcome on actp_agent_runs begin
    select observe_run_end(new.agent_id, new.instance, new.outcome); end;
create temp trigger seen_lease after insert on actp_leases begin
    select observe_lease(new.name, new.instance); end;
create temp trigger seen_lease_again after update of instance on actp_leases begin
    select observe_lease(new.name, new.instance); end;
create temp trigger seen_fire after insert on actp_job_runs begin
    select observe_fire(new.job_name, new.scheduled_at); end;
"""


class Rules:
    """The rules of one world.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.routines = {
            f"{spec.agent_id}.{routine.method}": routine.cron
            for spec in AGENT_SPECS
            for routine in spec.routines
        }
        self.calm_since: float | None = None
        """Since when nothing has gone wrong, by Trio's time; None while it may."""
        self._acknowledged: set[str] = set()
        self._started: Counter[tuple[str, str]] = Counter()
        self._fires: set[tuple[str, str]] = set()
        self._crashes: defaultdict[str, list[float]] = defaultdict(list)
        self._broken: Broken | None = None
        self._disturbed: list[tuple[datetime, datetime]] = []
        self._zone = ZoneInfo(world.plan.zone)
        self._single = {spec.agent_id for spec in AGENT_SPECS if spec.single}
        self._unhealthy_since: dict[str, float] = {}
        self._told_of: set[Name] = set()
        """What health has told while something could still go wrong."""
        self._hung: dict[tuple[Life, str], float] = {}
        self._hung_routines: dict[tuple[Life, str], float] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._last_crash: dict[tuple[Life, str], float] = {}
        self._all_crashes: Counter[tuple[str, str]] = Counter()
        self._instances: dict[str, Life] = {}
        self._disturbed_until = 0.0
        self._blocks: deque[tuple[float, float]] = deque(maxlen=100)
        self._held: dict[str, tuple[Life, float]] = {}
        self._paused: set[str] = set()
        self._holders: dict[str, tuple[str, float]] = {}
        self.talks = Talks(self.break_, self._told_within)
        self.outside = Outside(self.talks, self.break_)
        self.money = Money(world, self.break_)

    def break_(self, rule: Rule, why: str) -> None:
        """Note that a rule did not hold; the run ends at the next look, within a second."""
        if self._broken is None:
            self._broken = Broken(rule, why)
            self._world.note("world", f"{rule}: {why}")

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    # What is seen.

    def watch(self, db: sqlite3.Connection) -> None:
        """See each change of a database from now on."""
        db.create_function("observe_task", 8, self._saw_task)
        db.create_function("observe_run", 2, self._saw_run)
        db.create_function("observe_run_end", 3, self._saw_run_end)
        db.create_function("observe_lease", 2, self._saw_lease)
        db.create_function("observe_fire", 2, self._saw_fire)
        for trigger in _TRIGGERS.split("end;"):
            if trigger.strip():
                db.execute(f"{trigger}end")
        self.talks.watch(db)
        self.money.watch(db)
        self.outside.watch(db)

    def _saw_task(
        self,
        task_id: str,
        before: str | None,
        after: str | None,
        holder: str | None,
        token: str | None,
        settled: str | None,
        attempts: int,
        most: int,
    ) -> None:
        self._world.note("store", f"task {task_id} {before} -> {after} ({attempts})")
        verb = current_verb.get()
        if before == after:
            if after == "running" and verb == "claim_task":
                self.break_(Rule.CLAIMED_ONCE, f"task {task_id} was claimed while it was done")
            if after in FINAL and verb == "finish_task":
                self.break_(Rule.FINISHED_ONCE, f"task {task_id} was {after}, and ended again")
            return
        if after is None:
            if before not in FINAL and task_id in self._acknowledged:
                self.break_(Rule.NO_TASK_LOST, f"task {task_id} was deleted while {before}")
            self._acknowledged.discard(task_id)
        elif before in FINAL and not verb.startswith("retry_task"):
            self.break_(Rule.FINISHED_ONCE, f"task {task_id}, {before}, became {after} by {verb}")
        elif before == "running" and verb == "finish_task" and settled != token:
            self.break_(Rule.ONLY_WITH_TOKEN, f"task {task_id} was finished by another's token")
        if before == "running" and verb == "claim_task" and after != "running":
            self._taken_back(task_id, holder)
        if attempts > most:
            self.break_(Rule.ATTEMPTS, f"task {task_id} is at attempt {attempts} of {most}")

    def _taken_back(self, task_id: str, instance: str | None) -> None:
        """Judge that the lease of a task was found to have run out."""
        life = self._instances.get(instance or "")
        if life is None or life.is_dead or life.asked_to_stop:
            return
        agent_id, since = self._claims.get(task_id, ("", 0.0))
        has_crashed = self._last_crash.get((life, agent_id), -1.0) >= since
        if not has_crashed and trio.current_time() > self._disturbed_until:
            self.break_(Rule.LEASE_KEPT, f"task {task_id} was taken from {life.name}, which lives")

    def happens(self, step: Step) -> None:
        """See that something happens."""
        if step.is_fault and step.what not in CLAUDE:
            self.disturbed(step.amount if step.what in _LASTING else 0.0)

    def disturbed(self, seconds: float) -> None:
        """See that something goes wrong for so long, of which the traces last for two hours."""
        until = trio.current_time() + seconds + 2 * 3600.0
        self._disturbed_until = max(self._disturbed_until, until)

    def _saw_run(self, agent_id: str, instance: str) -> None:
        self._world.note("store", f"run of {agent_id} begins in {instance[:6]}")
        if agent_id in self._single and trio.current_time() >= self._disturbed_until:
            rows = self._world.memory.connection.execute(
                "select instance from actp_agent_runs"
                " where agent_id = ? and instance <> ? and finished_at is null",
                [agent_id, instance],
            ).fetchall()
            others = [self._instances.get(row["instance"]) for row in rows]
            if any(life is not None and not life.asked_to_stop for life in others):
                self.break_(Rule.ONE_HOLDER, f"{agent_id} runs twice")

    def _saw_run_end(self, agent_id: str, instance: str, outcome: str) -> None:
        self._world.note("store", f"run of {agent_id} in {instance[:6]} {outcome}")

    def _saw_lease(self, name: str, instance: str) -> None:
        if self._holders.get(name, ("", 0.0))[0] != instance:
            self._world.note("store", f"lease of {name} goes to {instance[:6]}")
            self._holders[name] = (instance, trio.current_time())

    def _saw_fire(self, job: str, moment: str) -> None:
        self._world.note("store", f"fire of {job} at {moment}")
        self._fires.add((job, moment))

    def did(self, life: Life, verb: str, arguments: Mapping[str, object], answer: object) -> None:
        """See what the store did for a daemon."""
        instance = arguments.get("instance")
        if isinstance(instance, str) and verb in ("beat", "touch_worker", "claim_task"):
            self._instances[instance] = life
        if verb == "claim_task" and answer is not None:
            self._claimed(life, str(arguments["agent_type"]), str(arguments["instance"]))
            if life.machine.kills:
                step = life.machine.kills.popleft()
                self._world.nursery.start_soon(self._world.kill_at_work, life, step)
            task_id: str = getattr(answer, "id", "")
            self._claims[task_id] = (str(arguments["agent_type"]), trio.current_time())

    def _claimed(self, life: Life, agent_id: str, instance: str) -> None:
        now = trio.current_time()
        held = self._held.get(agent_id)
        if held is not None:
            by, since = held
            told = max(since, life.started_at, life.machine.back_at) + self._told_within
            known = since if by is life else told
            if now > known:
                self.break_(
                    Rule.PAUSED, f"{agent_id} of {life.name} took a task while it was paused"
                )
        if agent_id in self._single:
            row = self._world.memory.connection.execute(
                "select instance from actp_leases where name = ? "
                "and expires_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
                [agent_id],
            ).fetchone()
            if row is not None and row[0] != instance:
                self.break_(
                    Rule.ONE_HOLDER, f"{agent_id} of {life.name} took a task; another has its lease"
                )

    def asked(self, life: Life, body: Mapping[str, Any]) -> None:
        """See that Claude is asked."""
        self.talks.asked(life, body)
        self.outside.asked(life, body)

    def replied(
        self,
        life: Life,
        agent_id: str,
        body: Mapping[str, Any],
        usage: Mapping[str, Any],
        *,
        whole: bool,
    ) -> None:
        """See a reply of Claude, whether all of it arrives or not."""
        self.money.sent(agent_id, self.talks.task_of(life, body), usage, whole=whole)
        if whole:
            self.talks.replied(life, body)

    def acknowledged(self, task_id: str) -> None:
        """See that a task's posting was acknowledged."""
        row = self._world.memory.connection.execute(
            "select 1 from actp_agent_tasks where id = ?", [task_id]
        ).fetchone()
        if row is None:
            self.break_(Rule.NO_TASK_LOST, f"task {task_id} was acknowledged and is not there")
        self._acknowledged.add(task_id)

    def paused(self, life: Life, agent_id: str) -> None:
        """See that the pausing of an agent was acknowledged."""
        self._held[agent_id] = (life, trio.current_time())
        self._paused.add(agent_id)

    def is_paused(self, agent_id: str) -> bool:
        """Whether people have an agent paused still."""
        return agent_id in self._paused

    def resuming(self, agent_id: str) -> None:
        """See that an agent may take tasks again, from some time on."""
        self._held.pop(agent_id, None)

    def resumed(self, agent_id: str) -> None:
        """See that it is acknowledged that an agent takes tasks again."""
        self._paused.discard(agent_id)

    @property
    def _told_within(self) -> float:
        """Seconds within which each daemon knows what another has written: some beats."""
        return 60.0 * stretch(self._world.plan.pace) + 30.0

    def slept(self, seconds: float) -> None:
        """See that all machines have just slept for so long."""
        now = self._world.true_clock.now()
        self._disturbed.append((now - timedelta(seconds=seconds), now))

    def heard(self, life: Life, event: LoggedEvent) -> None:
        """See an event that a daemon tells."""
        fields = event.fields
        if event.kind == "routine_started":
            fire = (str(fields["job"]), str(fields["scheduled_at"]))
            if fire in self._started and fields.get("late") is not None and _is_due(fields):
                self.break_(Rule.FIRED_ONCE, f"{fire[0]} of {fire[1]} was run again by {life.name}")
            self._started[fire] += 1
        elif event.kind == "agent_status" and event.agent_id and fields["status"] == "standby":
            self._hung.pop((life, event.agent_id), None)  # its run was ended for another daemon's
        elif event.kind == "routine_finished":
            self._hung_routines.pop((life, str(fields["job"])), None)
        elif event.kind == "child_crashed" and event.agent_id is not None:
            self._crashes[f"{life.name}/{event.agent_id}"].append(trio.current_time())
            self._last_crash[life, event.agent_id] = trio.current_time()
            self._all_crashes[life.name, event.agent_id] += 1
        elif event.kind == "child_started" and event.agent_id is not None:
            self._hung.pop((life, event.agent_id), None)  # whatever began a new run of it
            self._restarted(life, event.agent_id)

    def _restarted(self, life: Life, agent_id: str) -> None:
        now = trio.current_time()
        crashes = [at for at in self._crashes[f"{life.name}/{agent_id}"] if at >= now - 3600.0]
        self._crashes[f"{life.name}/{agent_id}"] = crashes
        if len(crashes) <= 5 or life.restarted.get(agent_id, -1.0) >= crashes[-1] - 60.0:
            return
        due = crashes[-1] + min(300.0, 2.0 ** len(crashes))
        if now < due - 1.0:
            self.break_(
                Rule.BACKOFF,
                f"{agent_id} of {life.name} crashed {len(crashes)} times in an hour and was "
                f"started {now - crashes[-1]:.0f} s after the last",
            )

    def hung(self, life: Life, agent_id: str, routine: str | None) -> None:
        """See that an agent hangs, or one of its routines, which has a time of its own."""
        if routine is None:
            self._hung[life, agent_id] = trio.current_time()
        else:
            self._hung_routines[life, f"{agent_id}.{routine}"] = trio.current_time()

    def freed(self, life: Life, agent_id: str, routine: str | None) -> None:
        """See that it hangs no more."""
        if routine is None:
            self._hung.pop((life, agent_id), None)
        else:
            self._hung_routines.pop((life, f"{agent_id}.{routine}"), None)

    def _judge_hangs(self) -> None:
        for (life, job), since in list(self._hung_routines.items()):
            if life.is_dead or life.asked_to_stop:
                del self._hung_routines[life, job]
            elif trio.current_time() > since + TIMEOUT + 60.0:
                self.break_(Rule.HANGS, f"the routine {job} of {life.name} hangs")
                return
        # It may have said that it waits for Claude, or until its next look at the queue.
        most = 600.0 + 180.0 * stretch(self._world.plan.pace) + 120.0
        for (life, agent_id), since in list(self._hung.items()):
            is_found = self._last_crash.get((life, agent_id), -1.0) >= since
            if is_found or life.is_dead or life.asked_to_stop or agent_id in life.restarted:
                del self._hung[life, agent_id]
            elif trio.current_time() > since + most:
                self.break_(Rule.HANGS, f"{agent_id} of {life.name} hangs")
                return

    def exited(self, life: Life, error: str | None) -> None:
        """See a daemon exit: with an error, or well."""
        if error is not None:
            self.break_(Rule.EXIT, f"{life.name} ended with an error:\n{error}")
        elif not life.asked_to_stop:
            self.break_(Rule.EXIT, f"{life.name} ended though nobody had asked it to")
        else:
            self._drained(life, trio.current_time())

    def _drained(self, life: Life, now: float) -> None:
        took = now - life.asked_to_stop[0]
        if took > DRAIN_TIME + self._blocked_since(life.asked_to_stop[0]):
            self.break_(Rule.DRAIN, f"{life.name} took {took:.1f} s to stop")

    def _blocked_since(self, moment: float) -> float:
        return sum(seconds for at, seconds in self._blocks if at >= moment)

    def blocked(self, seconds: float) -> None:
        """See that the loop that all daemons share was blocked until now."""
        self._blocks.append((trio.current_time(), seconds))

    # What is looked at.

    async def look(self) -> None:
        """Look again and again whether all is as it should be, for ever."""
        world = self._world
        while True:
            self._judge_hangs()
            self._check()
            await trio.sleep(30.0 * stretch(world.plan.pace))
            for machine in world.machines:
                life = machine.life
                if life is not None and not life.is_dead and life.daemon is not None:
                    self._look_at(life)

    def _look_at(self, life: Life) -> None:
        assert life.daemon is not None  # noqa: S101
        now = trio.current_time()
        machine = life.machine
        if life.asked_to_stop:
            self._drained(life, now)
            return
        health = life.daemon.health()
        if health.status is HealthState.HEALTHY:
            self._unhealthy_since.pop(life.name, None)
            away = machine.store_is_away and now - (machine.away_since or now)
            if away and away > NOTICED * stretch(self._world.plan.pace):
                self.break_(Rule.HEALTHY, f"{life.name}: the store is away for {away:.0f} s")
        else:
            self._judge_trouble(life, health, now)

    def _judge_trouble(self, life: Life, health: Health, now: float) -> None:
        """Judge what is wrong when nothing goes wrong any more, after some time to heal."""
        since = self._unhealthy_since.setdefault(life.name, now)
        calm = self.calm_since
        names = {problem.name for problem in health.problems if problem.key in _OF_BEFORE}
        if calm is None or now - calm < HEALED:
            self._told_of |= names
            return
        reasons = "; ".join(health.reasons)
        # A task also fails where there is no money for it.
        if names - self._told_of and not self._may_wait():
            self.break_(Rule.HEALS, f"{life.name} fails anew in the calm: {reasons}")
        if now - since > HEALED and not self._excused(health):
            self.break_(Rule.HEALS, f"{life.name} is {health.status}: {reasons}")

    def _excused(self, health: Health) -> bool:
        """Whether all reasons are ones that only people, midnight or the next run can end."""
        return all(
            problem.key in _OF_BEFORE
            or problem.key in _OF_PEOPLE
            or _is_unpaid(problem)
            # A task does not begin where there is no money for it.
            or (problem.key is ReasonKind.QUEUE_WAITS and self._may_wait())
            for problem in health.problems
        )

    # The end.

    async def judge_the_end(self) -> None:
        """Judge what a calm end has left."""
        self._check()
        db = self._world.memory.connection
        for task_id in sorted(self._acknowledged):
            row = db.execute(
                "select status, error from actp_agent_tasks where id = ?", [task_id]
            ).fetchone()
            if row is None:
                self.break_(Rule.NO_TASK_LOST, f"task {task_id} is not there any more")
            elif row["status"] not in FINAL and not self._may_wait():
                self.break_(Rule.NO_TASK_LOST, f"task {task_id} is {row['status']} for ever")
        self._judge_fires()
        self.money.judge_books(db)
        self._judge_rows(db)
        self._check()

    def _may_wait(self) -> bool:
        """Whether a task may wait for money, until midnight, or until its budget is raised."""
        plan = self._world.plan
        return (plan.budget, plan.total_budget, plan.task_budget) != (None, None, None)

    def _judge_fires(self) -> None:
        world = self._world
        # A daemon goes by its machine's clock, which may be behind.
        behind = max(timedelta(), -max(machine.clock.ahead for machine in world.machines))
        end = world.true_clock.now() - behind - timedelta(minutes=5)
        for job, cron in self.routines.items():
            fires = {moment for name, moment in self._fires if name == job}
            for moment in due_moments(cron, world.plan.start, end, self._zone):
                text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
                # What the journal does not know yet makes up for nothing.
                is_promised = not world.plan.has_faults or text > min(fires, default=text)
                if is_promised and text not in fires:
                    self.break_(
                        Rule.NOT_FORGOTTEN, f"{job} was due at {text}, and nothing is recorded"
                    )

    def _judge_rows(self, db: sqlite3.Connection) -> None:
        for agent_id, instance, runs in db.execute(
            "select agent_id, instance, count(*) from actp_agent_runs "
            "where finished_at is null group by agent_id, instance"
        ).fetchall():
            life = self._instances.get(instance)
            if runs > 1 or life is None or life.is_dead:
                who = "a daemon that is gone" if life is None or life.is_dead else life.name
                self.break_(Rule.BOUNDED, f"{runs} runs of {agent_id} of {who} are open")
        self._judge_open_runs(db)
        self._judge_numbers(db)
        (kept,) = db.execute("select count(*) from actp_budget_reservations").fetchone()
        if kept > 50:
            self.break_(Rule.BOUNDED, f"{kept} reservations of budgets are open")

    def _judge_numbers(self, db: sqlite3.Connection) -> None:
        """Judge how much there is of what is to end by itself, when there is nothing to do."""
        living = [machine.life for machine in self._world.machines if machine.life is not None]
        for life in living:
            if (tasks := life.count_tasks()) > MOST_TASKS:
                self.break_(Rule.BOUNDED, f"{life.name} has {tasks} tasks of Trio's")
        for what, statement, most in (
            ("daemons are there", "actp_workers where ended_at is null", len(living)),
            (
                "approvals wait that people have decided on",
                "actp_approvals where status = 'waiting'"
                " and created_at < strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-1 hour')",
                0,
            ),
            ("leases are held", "actp_leases", len(self._single) + 1),
        ):
            (number,) = db.execute(f"select count(*) from {statement}").fetchone()  # noqa: S608
            if number > most:
                self.break_(Rule.BOUNDED, f"{number} {what}, and at most {most} may be")

    def _judge_open_runs(self, db: sqlite3.Connection) -> None:
        """Judge that of each agent that runs there is the row of a run."""
        for machine in self._world.machines:
            life = machine.life
            if life is None or life.is_dead or life.daemon is None:
                continue
            (instance,) = [key for key, known in self._instances.items() if known is life]
            for agent_id, status in life.daemon.supervisor.statuses().items():
                (runs,) = db.execute(
                    "select count(*) from actp_agent_runs"
                    " where agent_id = ? and instance = ? and finished_at is null",
                    [agent_id, instance],
                ).fetchone()
                if status == "running" and not runs:
                    self.break_(Rule.RECORDED, f"no run of {agent_id} of {life.name} is there")
                (crashes,) = db.execute(
                    "select count(*) from actp_agent_runs"
                    " where agent_id = ? and instance = ? and outcome = 'crashed'",
                    [agent_id, instance],
                ).fetchone()
                heard = self._all_crashes[life.name, agent_id]
                if crashes != heard and self._world.plan.days < RETENTION:
                    self.break_(
                        Rule.CRASHES,
                        f"{agent_id} of {life.name} crashed {heard} times; {crashes} are recorded",
                    )

    def judge_what_is_left(self) -> None:
        """Judge what is left when every daemon has exited."""
        db = self._world.memory.connection
        left = db.execute(
            "select count(*) from actp_agent_tasks where status = 'running'"
        ).fetchone()[0]
        if left:
            self.break_(Rule.NO_TASK_LOST, f"{left} tasks are running, and no daemon is")
        self._check()


def _is_due(fields: Mapping[str, Any]) -> bool:
    """Whether a routine was run because it was due, and not because a person wanted it now."""
    return str(fields["scheduled_at"]).endswith(":00+00:00") or ":00.000" in str(
        fields["scheduled_at"]
    )


_OF_BEFORE: Final = frozenset(
    {
        ReasonKind.ROUTINE_FAILED,
        ReasonKind.ROUTINE_MISSED,
        ReasonKind.TASKS_FAILING,
        ReasonKind.ROWS_UNREADABLE,
    }
)
"""What tells of the past, until the next run, the next task or midnight."""

_OF_PEOPLE: Final = frozenset({ReasonKind.BUDGET_NEAR, ReasonKind.APPROVALS_WAIT})
"""What only people end, or midnight."""


def _is_unpaid(problem: Reason) -> bool:
    """Whether an agent waits for nothing but money."""
    is_for_money = "budget" in problem.text or "spend limit" in problem.text
    return problem.key is ReasonKind.AGENT_PAUSED and is_for_money

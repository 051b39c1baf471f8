"""Tasks of an agent's queue, one after another: claimed, done under a lease, and settled."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from actp_supervise import current_child
from actp_supervise.service import clean_json, log_context, why
from app.store.protocol import Lease, StoreError, StoreUnavailable, TaskRow, TaskStatus
from app.store.records import moment_text

from .handle import end, finish_anyway
from .lease import LeaseEnded, under_lease
from .outcomes import HandBack, Outcome, Parked, Paused, Refused
from .pauses import until_over
from .traces import attempt_span, end_task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .contract import AgentContext

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT: Final = 1.5
"""Seconds for settling a task once the agent is cancelled; else its lease does it in the end."""

FAILED_IN_A_ROW: Final = 3
"""Different tasks that must fail, with none ending well between, to be the agent's own fault.

Until then an error is the task's, which waits by itself: the agent goes on with others, and one
task does not use up its restarts.
"""


class Worker:
    """Works off the queue of one agent.

    Args:
        context: The agent's.
        do: Does a task.
    """

    def __init__(
        self, context: AgentContext, do: Callable[[TaskRow], Coroutine[Any, Any, Outcome]]
    ) -> None:
        self._context = context
        self._store = context.store
        self._activity = context.activity
        self._do = do
        self._failed: set[str] = set()
        """Tasks in which its code raised an error, since the last one that came to an end."""

    async def run(self, poll_interval: float) -> None:
        """Do tasks until asked to stop; the one in flight is finished.

        Args:
            poll_interval: Seconds between two looks at an empty queue.
        """
        self._activity.progress("idle")  # from now on one that hangs in its first look is found
        while not current_child().stopping:
            if not await self._do_next():
                self._activity.unthrottle()
                self._activity.progress("idle", within=poll_interval)
                with current_child().cancel_on_stop():
                    await self._context.wait_for_work(poll_interval)

    async def _do_next(self) -> bool:
        """Do one task, if there is any."""
        token = uuid.uuid4().hex
        task = await self._claim(token)
        if task is None:
            return False
        with log_context(task=task.id):
            goal = self._context.redact(task.goal)
            logger.info("Task taken: %.200s", goal, extra={"action": "task_claimed"})
            try:
                await self.work_off(task, token)
            except Paused as paused:
                await self._pause(paused)
            except HandBack as back:
                if not back.alone:
                    await self._rest(back)
        return True

    async def _claim(self, token: str) -> TaskRow | None:
        claiming = asyncio.ensure_future(
            self._store.claim_task(
                self._context.agent_id,
                worker_id=self._context.worker_id,
                instance=self._context.instance,
                token=token,
                lease=self._context.task_lease,
            )
        )
        try:
            return await asyncio.shield(claiming)
        except StoreUnavailable:  # and it was asked to stop meanwhile
            return None
        except asyncio.CancelledError:
            await asyncio.wait({claiming}, timeout=RELEASE_TIMEOUT / 2)
            claimed = claiming.done() and not claiming.cancelled() and not claiming.exception()
            task = claiming.result() if claimed else None
            await end(claiming)
            if task is not None:
                await self._release_in_time(task, token)
            raise

    async def work_off(self, task: TaskRow, token: str) -> Outcome:
        """Do a task that is claimed and record how it ended, or hand it back.

        Raises:
            HandBack: If it is back in the queue, for this reason.
        """
        names = {"actp_run_id": self._context.run_id, "actp_worker_id": self._context.worker_id}
        with attempt_span(task, **names) as traced:
            outcome = await self._work_off(task, token)
            if outcome.failure is not None:
                traced.fail("task_failed")
            return outcome

    async def _work_off(self, task: TaskRow, token: str) -> Outcome:
        goal = self._context.redact(task.goal)
        self._activity.progress(f"task: {goal:.80}", task_id=task.id)
        limit = asyncio.timeout(task.timeout)
        try:
            async with limit:
                outcome = await under_lease(
                    self._do(task),
                    store=self._store,
                    task=task,
                    token=token,
                    lease=self._context.task_lease,
                    wait=self._context.wait_for_work,
                )
        except LeaseEnded as ended:
            if ended.why is Lease.CANCEL_REQUESTED:
                await self._finish(task, token, TaskStatus.CANCELLED)
                return Outcome(failure="it was cancelled", result={})
            logger.warning("Task lost to another worker", extra={"action": "task_lost"})
            return Outcome(failure="another worker has its task", result={})
        except Refused as refused:
            await self._finish(task, token, TaskStatus.FAILED, error=str(refused))
            return Outcome(failure=str(refused), result={})
        except HandBack as back:
            await self._hand_back(task, token, back)  # noqa: ASYNC120  (a cancellation outweighs it)
            raise
        except asyncio.CancelledError:
            await self._release_in_time(task, token)
            raise
        except Exception as error:
            reason = await self._fail_attempt(task, token, error, timed_out=limit.expired())
            if len(self._failed) >= FAILED_IN_A_ROW:  # then it is the agent's own fault
                raise
            return Outcome(failure=reason, result={})
        else:
            status = TaskStatus.SUCCEEDED if outcome.failure is None else TaskStatus.FAILED
            self._failed.clear()
            await self._finish(task, token, status, result=outcome.result, error=outcome.failure)
            return outcome

    async def _hand_back(self, task: TaskRow, token: str, back: HandBack) -> None:
        """Hand back a task that cannot go on now, or not before a person has decided."""
        if isinstance(back, Parked):
            logger.info("Task %s", back.reason, extra={"action": "task_parked"})
            if not await finish_anyway(self._store.park_task(task.id, token)):
                logger.warning("Task lost to another worker", extra={"action": "task_lost"})
            return
        extra = {"action": "task_released", "seconds": back.delay}
        later = f"; to be tried again in {back.delay:.0f} s" if back.delay else ""
        logger.warning("Task handed back: %s%s", back.reason, later, extra=extra)
        await self._release(
            task, token, count_attempt=back.count_attempt, delay=back.delay, error=back.reason
        )

    async def _fail_attempt(
        self, task: TaskRow, token: str, error: Exception, *, timed_out: bool
    ) -> str:
        """Hand a task back that raised an error; return why, in words."""
        if timed_out:
            reason = f"it took longer than its time-out of {task.timeout:g} s"
            logger.warning("Task given up: %s", reason, extra={"action": "task_timed_out"})
        else:
            reason = f"the agent's code raised {type(error).__name__} while it did this"
            logger.error("Task failed", exc_info=error, extra={"action": "task_crashed"})
            self._failed.add(task.id)
        await self._release(task, token, count_attempt=True, error=reason)
        return reason

    async def _finish(
        self,
        task: TaskRow,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        # An agent of somebody else's hands on what its libraries say, a key of ours included.
        result = None if result is None else clean_json(result, self._context.redact)
        error = None if error is None else self._context.redact(error)
        held = await finish_anyway(
            self._store.finish_task(task.id, token, status, result=result, error=error)
        )
        if not held:
            logger.warning("Task lost to another worker", extra={"action": "task_lost"})
            return
        extra = {"action": f"task_{status}"}
        if error is None:
            logger.info("Task %s", status, extra=extra)
        else:
            logger.warning("Task %s: %s", status, error, extra=extra)
        now = await self._store.ping()
        cost = None if result is None else result.get("usd")
        cost = cost if isinstance(cost, float) else None
        end_task(task, now, actp_task_status=status.value, actp_cost__usd=cost)
        self._activity.last_run_at = moment_text(now)
        if status is TaskStatus.SUCCEEDED:
            self._activity.tasks_done += 1
        elif status is TaskStatus.FAILED:
            self._activity.tasks_failed += 1

    async def _release(
        self,
        task: TaskRow,
        token: str,
        *,
        count_attempt: bool,
        error: str | None,
        delay: float = 0.0,
    ) -> None:
        error = None if error is None else self._context.redact(error)
        await finish_anyway(
            self._store.release_task(
                task.id, token, count_attempt=count_attempt, delay=delay, error=error
            )
        )

    async def _release_in_time(self, task: TaskRow, token: str) -> None:
        """Hand a task back although the agent is cancelled; what hung it may hang it again."""
        error = None
        if current_child().stalled:
            error = f"the agent hung: {self._activity.what_is_missing()}"
        elif not _is_cancelled():
            error = "the agent ended itself with CancelledError while it did this"
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                held = await self._store.release_task(
                    task.id, token, count_attempt=error is not None, error=error
                )
            if held:
                reason = error or "the agent was stopped before it had finished it"
                logger.warning("Task handed back: %s", reason, extra={"action": "task_released"})
            else:
                logger.warning("Task lost to another worker", extra={"action": "task_lost"})
        except (TimeoutError, StoreError) as failure:
            logger.warning("Task not handed back, its lease will end: %s", why(failure))

    async def _pause(self, paused: Paused) -> None:
        """Take no tasks until the pause ends, or the agent."""
        logger.error("Paused: %s", paused.reason, extra={"action": "agent_paused"})
        until = None if paused.until is None else moment_text(paused.until)
        self._activity.pause(paused.reason, until=until)
        with current_child().cancel_on_stop():
            await until_over(paused.until, self._store, self._activity)
            self._activity.resume()

    async def _rest(self, back: HandBack) -> None:
        """Take no tasks for as long as it is no use."""
        self._activity.progress("idle")
        self._activity.throttle(back.delay, back.reason)
        with current_child().cancel_on_stop():
            await asyncio.sleep(back.delay)


def _is_cancelled() -> bool:
    """Say whether somebody cancels this task, rather than its own code."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

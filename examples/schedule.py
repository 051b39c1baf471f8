"""A scheduler as a supervised child: jobs by cron expression and by interval.

Run it: python examples/schedule.py
"""

import trio

from actp_supervise import Cron, Every, current_child, open_scheduler, open_supervisor


async def report() -> None:
    print("the daily report runs")


async def sample(samples: list[float]) -> None:
    samples.append(trio.current_time())


async def schedule(samples: list[float]) -> None:
    async with open_scheduler(timezone="Europe/Berlin") as scheduler:
        daily = scheduler.add(report, name="daily", trigger=Cron("0 6 * * *"))
        scheduler.add(sample, samples, name="sample", trigger=Every(0.1))
        print(f"the report is next due at {daily.next_run_time}")
        await scheduler.run_now("daily")
        await current_child().stopping.wait()
        await scheduler.shutdown()


async def main() -> None:
    samples: list[float] = []
    async with open_supervisor(name="root") as supervisor:
        supervisor.start_soon(schedule, samples, name="scheduler")
        await trio.sleep(0.55)
        await supervisor.shutdown()
    print(f"{len(samples)} samples were taken")


if __name__ == "__main__":
    trio.run(main)

"""The contract of the Store: tasks are found again, in pages, by what is in them."""

from __future__ import annotations

from store_calls import claim

from app.store.protocol import TaskFilter, TaskStatus


async def add(store, task_id, agent_type="social", *, goal="do it"):
    return await store.add_task(task_id, agent_type, goal)


async def newest_first(store, **wanted):
    return [task.id for task in await store.tasks(**wanted)]


async def test_a_search_finds_part_of_a_goal_or_of_an_error_however_it_is_written(store):
    await add(store, "t1", goal="Write to NORTHWIND traders")
    await add(store, "t2", goal="Ask 100 % of them (really)")
    await add(store, "t3", goal="Größe der Überschrift")
    await add(store, "t4")
    task = await claim(store)
    await store.finish_task(task.id, "k1", TaskStatus.FAILED, error="Northwind is away")
    await add(store, "t5", goal="northwind again")
    assert await newest_first(store, search="northwind") == ["t5", "t1"]
    assert await newest_first(store, search="IS AWAY") == ["t1"]
    assert await newest_first(store, search="100 %") == await newest_first(store, search="(really)")
    assert await newest_first(store, search="überschrift") == ["t3"]
    assert await newest_first(store, search="_") == []
    assert await newest_first(store, search="'; drop") == []


async def test_a_search_finds_a_task_and_the_tasks_of_an_agent_by_what_they_are_called(store):
    await add(store, "0f9d2b52-6c3e", "social")
    await add(store, "0f9d2c00-0000", "content")
    await add(store, "t3", "content")
    assert await newest_first(store, search="content") == ["t3", "0f9d2c00-0000"]
    assert await newest_first(store, search="conten") == []
    assert await newest_first(store, search="0f9d2b52-6c3e") == ["0f9d2b52-6c3e"]
    assert await newest_first(store, search="0f9d2b") == ["0f9d2b52-6c3e"]
    assert await newest_first(store, search="0f9d2") == []  # it may be in any other
    assert await newest_first(store, search="t3") == ["t3"]


async def test_tasks_are_listed_from_one_moment_to_another(store):
    for number in range(4):
        await add(store, f"t{number}")
    made = {task.id: task.created_at for task in await store.tasks()}
    between = [name for name, at in made.items() if made["t1"] <= at < made["t3"]]
    assert await newest_first(store, since=made["t1"], until=made["t3"]) == between
    assert await newest_first(store, until=made["t0"]) == []


async def test_each_task_is_on_one_page_though_others_come_and_change_meanwhile(store):
    for number in range(7):
        await add(store, f"t{number}", "social" if number % 2 else "content")
    first = await newest_first(store, limit=3)
    await add(store, "new")
    await claim(store, agent_type="content")
    second = await newest_first(store, limit=3, before=first[-1])
    third = await newest_first(store, limit=3, before=second[-1])
    assert first + second + third == ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]
    assert await newest_first(store, before="t0") == []
    assert await newest_first(store, before="t4", agent_type="social") == ["t3", "t1"]
    assert await newest_first(store, before="nothing") == []


async def test_what_a_filter_would_concern_is_counted(store):
    for number in range(3):
        await add(store, f"t{number}", goal=f"Post number {number}")
    await add(store, "c", "content")
    await store.cancel_task("t0")
    queued = [TaskStatus.QUEUED, TaskStatus.RUNNING]
    assert await store.count_matching(TaskFilter(), queued) == 3
    assert await store.count_matching(TaskFilter(), queued, limit=2) == 2
    assert await store.count_matching(TaskFilter(agent_type="social"), queued) == 2
    assert await store.count_matching(TaskFilter(search="content"), queued) == 1
    assert await store.count_matching(TaskFilter(text="POST"), [TaskStatus.CANCELLED]) == 1
    assert await store.count_matching(TaskFilter(status=TaskStatus.FAILED), queued) == 0


async def test_a_search_says_which_tasks_are_cancelled(store):
    await add(store, "t1", goal="Write to Northwind")
    await add(store, "t2", goal="Write to Southwind")
    assert await store.cancel_tasks(TaskFilter(search="northWIND")) == 1
    assert await newest_first(store, status=TaskStatus.QUEUED) == ["t2"]
    assert await store.retry_tasks(TaskFilter(search="southwind")) == 0
    assert await store.retry_tasks(TaskFilter(search="northwind")) == 1

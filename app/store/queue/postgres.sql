-- The queue of tasks. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

-- A table that was there before may hold tasks in other states, which are none of the worker's.
create or replace function public.actp_task(p_id text) returns setof jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(t) from public.actp_agent_tasks t
    where id = p_id
        and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
$$;

create or replace function public.actp_add_task(
    p_id text, p_agent_type text, p_goal text, p_context jsonb, p_priority integer,
    p_max_attempts integer, p_not_before timestamptz, p_timeout double precision,
    p_unique_key text
) returns jsonb language plpgsql set search_path = '' as $$
declare
    found_task jsonb;
begin
    for tries in 1..3 loop  -- the one of the same key may end between the statements
        insert into public.actp_agent_tasks
            (id, agent_type, goal, context, priority, status, max_attempts, not_before, timeout,
             unique_key, created_at)
        values (p_id, p_agent_type, p_goal, coalesce(p_context, '{}'), p_priority, 'queued',
            p_max_attempts, case when p_not_before > now() then p_not_before end, p_timeout,
            p_unique_key, now())
        on conflict do nothing;
        select to_jsonb(t) into found_task from public.actp_agent_tasks t where id = p_id;
        if found_task is null then
            select to_jsonb(t) into found_task from public.actp_agent_tasks t
            where agent_type = p_agent_type and unique_key = p_unique_key
                and status in ('queued', 'running', 'waiting');
        end if;
        exit when found_task is not null;
    end loop;
    return found_task;
end
$$;

create or replace function public.actp_begin_task(
    p_id text, p_agent_type text, p_goal text, p_context jsonb, p_routine text, p_worker_id text,
    p_instance text, p_token text, p_lease double precision
) returns setof jsonb language plpgsql set search_path = '' as $$
begin
    insert into public.actp_agent_tasks
        (id, agent_type, goal, context, routine, status, attempts, worker_id, instance,
         lease_token, lease_until, created_at, started_at)
    values (p_id, p_agent_type, p_goal, coalesce(p_context, '{}'), p_routine, 'running', 1,
        p_worker_id, p_instance, p_token, now() + make_interval(secs => p_lease), now(), now())
    on conflict (id) do nothing;
    return query select to_jsonb(t) from public.actp_agent_tasks t
        where id = p_id and lease_token = p_token and status = 'running';
end
$$;

-- For daemons of the release before: actp_find_tasks has its place now.
create or replace function public.actp_tasks(
    p_status text, p_agent_type text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.seq desc), '[]') from (
        select * from public.actp_agent_tasks
        where (p_status is null or status = p_status)
            and (p_agent_type is null or agent_type = p_agent_type)
            and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
        order by seq desc
        limit greatest(p_limit, 0)
    ) t
$$;

-- The statuses once more, for the tasks of other programs; `p_search` is as contract.py has it.
create or replace function public.actp_find_tasks(
    p_status text, p_agent_type text, p_limit integer, p_search text, p_since timestamptz,
    p_until timestamptz, p_before text
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.seq desc), '[]') from (
        select * from public.actp_agent_tasks
        where (p_status is null or status = p_status)
            and (p_agent_type is null or agent_type = p_agent_type)
            and (p_search is null
                or goal ~* ('***=' || p_search) or error ~* ('***=' || p_search)
                or agent_type = p_search or id = p_search
                or (length(p_search) >= 6 and starts_with(id, p_search)))
            and (p_since is null or created_at >= p_since)
            and (p_until is null or created_at < p_until)
            and (p_before is null
                or seq < (select seq from public.actp_agent_tasks where id = p_before))
            and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
        order by seq desc
        limit greatest(p_limit, 0)
    ) t
$$;

create or replace function public.actp_count_matching(
    p_which jsonb, p_among jsonb, p_limit integer
) returns integer language sql stable set search_path = '' as $$
    select count(*)::integer from (
        select from public.actp_agent_tasks
        where p_among ? status
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
            and (p_which ->> 'search' is null
                or goal ~* ('***=' || (p_which ->> 'search'))
                or error ~* ('***=' || (p_which ->> 'search'))
                or agent_type = p_which ->> 'search' or id = p_which ->> 'search'
                or (length(p_which ->> 'search') >= 6
                    and starts_with(id, p_which ->> 'search')))
            and (p_which ->> 'since' is null
                or created_at >= (p_which ->> 'since')::timestamptz)
            and (p_which ->> 'until' is null or created_at < (p_which ->> 'until')::timestamptz)
        limit greatest(p_limit, 0)
    ) found
$$;

-- By agent and status: those that are over from the sums that are kept, the others are few.
create or replace function public.actp_task_counts() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_object_agg(agent_type, counts), '{}') from (
        select agent_type, jsonb_object_agg(status, tasks) as counts from (
            select agent_type, status, sum(tasks) as tasks from public.actp_task_totals
            group by agent_type, status having sum(tasks) > 0
            union all
            select agent_type, status, count(*) from public.actp_agent_tasks
            where status in ('queued', 'running', 'waiting') group by agent_type, status
        ) counted
        group by agent_type
    ) by_agent
$$;

create or replace function public.actp_oldest_queued() returns jsonb
language sql stable set search_path = '' as $$
    with recursive agents as (  -- a look into the index for each, and not at each task
        select min(agent_type) as agent_type from public.actp_agent_tasks
        where status = 'queued' and not_before is null
        union all
        select (
            select min(t.agent_type) from public.actp_agent_tasks t
            where status = 'queued' and not_before is null and t.agent_type > agents.agent_type
        )
        from agents where agents.agent_type is not null
    )
    select coalesce(jsonb_object_agg(agent_type, age), '{}') from (
        select agent_type, greatest(0, extract(epoch from now() - min(created_at))) as age
        from (
            select agent_type, (
                select min(t.created_at) from public.actp_agent_tasks t
                where t.agent_type = agents.agent_type and status = 'queued'
                    and not_before is null
            ) as created_at
            from agents where agent_type is not null
            union all
            select agent_type, created_at from public.actp_agent_tasks
            where status = 'queued' and not_before <= now()
        ) ready
        group by agent_type
    ) waiting
$$;

-- Ends a claim without a result: the task goes back to the queue, unless its cancelling was asked
-- for or its attempts are used up. `p_uncounted` attempts, 0 or 1, are taken back.
create or replace function public.actp_hand_back(
    p_id text, p_uncounted integer, p_error text, p_token text, p_delay double precision
) returns void language sql set search_path = '' as $$
    update public.actp_agent_tasks t set
        status = ended.status,
        attempts = t.attempts - p_uncounted,
        error = p_error,
        worker_id = case when ended.status <> 'queued' then t.worker_id end,
        started_at = case when ended.status <> 'queued' then t.started_at end,
        finished_at = case when ended.status <> 'queued' then now() end,
        not_before = case when ended.status = 'queued' and p_delay > 0
            then now() + make_interval(secs => p_delay) end,
        settled_token = coalesce(p_token, t.settled_token),
        instance = null,
        lease_token = null,
        lease_until = null
    from (
        select id, case
            when cancel_requested then 'cancelled'
            when attempts - p_uncounted >= max_attempts then 'failed'
            else 'queued'
        end as status
        from public.actp_agent_tasks where id = p_id
    ) ended
    where t.id = ended.id
$$;

create or replace function public.actp_claim_task(
    p_agent_type text, p_worker_id text, p_instance text, p_token text, p_lease double precision
) returns setof public.actp_agent_tasks
language plpgsql set search_path = '' as $$
declare
    expired public.actp_agent_tasks;
    is_first boolean;
begin
    -- A token claims once. Of a claim that its caller repeats, a copy may arrive when the task is
    -- over: it would take another one, of which nobody knows. While the first copy is still at work
    -- the next one waits here.
    insert into public.actp_requests (key) values ('claim ' || p_token)
        on conflict (key) do nothing;
    is_first = found;
    return query select * from public.actp_agent_tasks
        where lease_token = p_token and status = 'running' and agent_type = p_agent_type;
    if found or not is_first then
        return;
    end if;
    if exists (
        select from public.actp_agent_registry
        where agent_id = p_agent_type and paused_at is not null
    ) then
        return;
    end if;
    -- The lease of an agent's name is that of a *single* one; only the daemon that has it may claim.
    if exists (
        select from public.actp_leases
        where name = p_agent_type and instance <> p_instance and expires_at >= now()
    ) then
        return;
    end if;
    -- Apart from the claim: with all in one "where", no index would serve any.
    for expired in
        select * from public.actp_agent_tasks
        where agent_type = p_agent_type and status = 'running' and lease_until < now()
        for update skip locked
    loop
        perform public.actp_hand_back(expired.id, 0, format(
            'the lease of %s ran out in attempt %s of %s',
            expired.worker_id, expired.attempts, expired.max_attempts
        ), null, 0);
    end loop;
    update public.actp_agent_tasks t set not_before = null
    from (
        select id from public.actp_agent_tasks
        where agent_type = p_agent_type and status = 'queued' and not_before <= now()
        for update skip locked
    ) due
    where t.id = due.id;
    return query
        with next as materialized (
            select id from public.actp_agent_tasks
            where agent_type = p_agent_type and status = 'queued' and not_before is null
            order by priority desc, seq
            limit 1
            for update skip locked
        )
        update public.actp_agent_tasks t set
            status = 'running',
            attempts = t.attempts + 1,
            worker_id = p_worker_id,
            instance = p_instance,
            lease_token = p_token,
            lease_until = now() + make_interval(secs => p_lease),
            started_at = now()
        from next where t.id = next.id
        returning t.*;
end
$$;

create or replace function public.actp_renew_task(
    p_id text, p_token text, p_lease double precision
) returns text language sql set search_path = '' as $$
    with renewed as (
        update public.actp_agent_tasks set lease_until = now() + make_interval(secs => p_lease)
        where id = p_id and lease_token = p_token and status = 'running'
        returning cancel_requested
    )
    select coalesce(
        (select case when cancel_requested then 'cancel_requested' else 'held' end from renewed),
        'lost'
    )
$$;

create or replace function public.actp_finish_task(
    p_id text, p_token text, p_status text, p_result jsonb, p_error text
) returns boolean language plpgsql set search_path = '' as $$
begin
    update public.actp_agent_tasks set
        status = p_status,
        result = p_result,
        error = p_error,
        lease_token = null,
        lease_until = null,
        settled_token = p_token,
        finished_at = now()
    where id = p_id and lease_token = p_token and status = 'running';
    return exists (
        select from public.actp_agent_tasks where id = p_id and settled_token = p_token
    );
end
$$;

create or replace function public.actp_release_task(
    p_id text, p_token text, p_count_attempt boolean, p_delay double precision, p_error text
) returns boolean language plpgsql set search_path = '' as $$
declare
    held public.actp_agent_tasks;
begin
    select * into held from public.actp_agent_tasks
    where id = p_id and lease_token = p_token and status = 'running'
    for update;
    if found then
        perform public.actp_hand_back(
            p_id, case when p_count_attempt then 0 else 1 end,
            coalesce(p_error, held.error), p_token, p_delay
        );
    end if;
    return exists (
        select from public.actp_agent_tasks where id = p_id and settled_token = p_token
    );
end
$$;

create or replace function public.actp_cancel_task(p_id text)
returns setof public.actp_agent_tasks language plpgsql set search_path = '' as $$
begin
    -- Or a task that is handed back between the two would be seen by neither.
    perform from public.actp_agent_tasks where id = p_id for update;
    update public.actp_agent_tasks set
        status = 'cancelled', instance = null, lease_token = null, lease_until = null,
        not_before = null, finished_at = now()
    where id = p_id
        and (status in ('queued', 'waiting') or (status = 'running' and lease_until < now()));
    update public.actp_approvals set
        status = 'expired', decided_at = now(),
        comment = 'its task was over before it was decided', about = null
    where task_id = p_id and status = 'waiting' and exists (
        select from public.actp_agent_tasks where id = p_id and status = 'cancelled'
    );
    update public.actp_agent_tasks set cancel_requested = true
    where id = p_id and status = 'running';
    return query select * from public.actp_agent_tasks
        where id = p_id
            and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled');
end
$$;

create or replace function public.actp_retry_task(p_id text)
returns setof public.actp_agent_tasks language plpgsql set search_path = '' as $$
begin
    update public.actp_agent_tasks set
        status = 'queued', attempts = 0, result = null, error = null, worker_id = null,
        settled_token = null, not_before = null, cancel_requested = false, started_at = null,
        finished_at = null
    where id = p_id and status in ('failed', 'cancelled') and not exists (
        select from public.actp_agent_tasks other
        where other.agent_type = actp_agent_tasks.agent_type
            and other.unique_key = actp_agent_tasks.unique_key
            and other.status in ('queued', 'running', 'waiting')
    );
    return query select * from public.actp_agent_tasks
        where id = p_id
            and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled');
end
$$;

-- Ends a claim whose task cannot be read, and lets its token claim the next one.
create or replace function public.actp_settle_unreadable(p_id text, p_token text, p_error text)
returns void language plpgsql set search_path = '' as $$
begin
    update public.actp_agent_tasks set
        status = 'failed', error = p_error, instance = null, lease_token = null,
        lease_until = null, finished_at = now()
    where id = p_id and lease_token = p_token and status = 'running';
    if found then
        delete from public.actp_requests where key = 'claim ' || p_token;
    end if;
end
$$;

-- Tasks that were settled because they could not be read, of the last seconds, newest first.
create or replace function public.actp_unreadable_tasks(
    p_within double precision, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(id order by finished_at desc, seq desc), '[]') from (
        select id, finished_at, seq from public.actp_agent_tasks
        where status = 'failed' and error like 'cannot be read: %'
            and finished_at >= now() - make_interval(secs => p_within)
        order by finished_at desc, seq desc
        limit greatest(p_limit, 0)
    ) t
$$;

create or replace function public.actp_cancel_tasks(p_which jsonb, p_limit integer)
returns integer language plpgsql set search_path = '' as $$
declare
    found_task record;
    concerned integer = 0;
begin
    for found_task in
        select id from public.actp_agent_tasks
        where status in ('queued', 'running', 'waiting')
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
            and (p_which ->> 'search' is null
                or goal ~* ('***=' || (p_which ->> 'search'))
                or error ~* ('***=' || (p_which ->> 'search'))
                or agent_type = p_which ->> 'search' or id = p_which ->> 'search'
                or (length(p_which ->> 'search') >= 6
                    and starts_with(id, p_which ->> 'search')))
            and (p_which ->> 'since' is null
                or created_at >= (p_which ->> 'since')::timestamptz)
            and (p_which ->> 'until' is null or created_at < (p_which ->> 'until')::timestamptz)
        order by seq
        limit greatest(p_limit, 0)
    loop
        perform public.actp_cancel_task(found_task.id);
        concerned = concerned + 1;
    end loop;
    return concerned;
end
$$;

create or replace function public.actp_retry_tasks(p_which jsonb, p_limit integer)
returns integer language plpgsql set search_path = '' as $$
declare
    found_task record;
    queued integer = 0;
begin
    for found_task in
        select id from public.actp_agent_tasks
        where status in ('failed', 'cancelled')
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
            and (p_which ->> 'search' is null
                or goal ~* ('***=' || (p_which ->> 'search'))
                or error ~* ('***=' || (p_which ->> 'search'))
                or agent_type = p_which ->> 'search' or id = p_which ->> 'search'
                or (length(p_which ->> 'search') >= 6
                    and starts_with(id, p_which ->> 'search')))
            and (p_which ->> 'since' is null
                or created_at >= (p_which ->> 'since')::timestamptz)
            and (p_which ->> 'until' is null or created_at < (p_which ->> 'until')::timestamptz)
        order by seq
        limit greatest(p_limit, 0)
    loop
        if (select status = 'queued' from public.actp_retry_task(found_task.id)) then
            queued = queued + 1;
        end if;
    end loop;
    return queued;
end
$$;

-- Keeps the sums of tasks that are over. In several rows each, so that two who finish a task of one
-- agent need not wait for each other.
create or replace function public.actp_sum_tasks() returns trigger
language plpgsql set search_path = '' as $$
begin
    if tg_op = 'TRUNCATE' then
        delete from public.actp_task_totals where true;
    elsif tg_op = 'INSERT' then
        perform public.actp_add_totals((
            select jsonb_agg(jsonb_build_array(agent_type, status, 1)) from added
            where status in ('succeeded', 'failed', 'cancelled')
        ));
    elsif tg_op = 'DELETE' then
        perform public.actp_add_totals((
            select jsonb_agg(jsonb_build_array(agent_type, status, -1)) from removed
            where status in ('succeeded', 'failed', 'cancelled')
        ));
    else
        perform public.actp_add_totals((
            select jsonb_agg(jsonb_build_array(agent_type, status, n)) from (
                select agent_type, status, 1 as n from added
                union all
                select agent_type, status, -1 from removed
            ) changed
            where status in ('succeeded', 'failed', 'cancelled')
        ));
        perform public.actp_add_history((
            select jsonb_agg(jsonb_build_array(
                a.agent_type, a.status,
                case when a.status = 'running' then a.started_at else a.finished_at end,
                greatest(0, extract(epoch from
                    a.started_at - coalesce(a.ready_at, a.created_at)))
            ))
            from added a join removed r on r.id = a.id
            where a.status = 'running' and r.status = 'queued'
                or a.status in ('succeeded', 'failed', 'cancelled')
                    and r.status not in ('succeeded', 'failed', 'cancelled')
        ));
    end if;
    return null;
end
$$;

-- Adds [agent_type, status, number] of each to the sums.
create or replace function public.actp_add_totals(p_changes jsonb)
returns void language sql set search_path = '' as $$
    insert into public.actp_task_totals as t (agent_type, status, shard, tasks)
    select change ->> 0, change ->> 1, pg_backend_pid() % 16, sum((change ->> 2)::integer)
    from jsonb_array_elements(p_changes) as c (change)
    group by 1, 2 having sum((change ->> 2)::integer) <> 0
    order by 1, 2
    on conflict (agent_type, status, shard) do update set tasks = t.tasks + excluded.tasks
$$;

-- The quarter of an hour in which a moment is: all days of all zones begin with one.
create or replace function public.actp_quarter(p_moment timestamptz)
returns timestamptz language sql immutable set search_path = '' as $$
    select to_timestamp(floor(extract(epoch from p_moment) / 900) * 900)
$$;

-- Adds [agent_type, status, moment, seconds waited] of each to what became of tasks: one that runs
-- has begun, any other has ended.
create or replace function public.actp_add_history(p_changes jsonb)
returns void language sql set search_path = '' as $$
    insert into public.actp_task_history as h
        (agent_type, quarter, shard, succeeded, failed, cancelled, begun, waited)
    select agent_type, public.actp_quarter(at), pg_backend_pid() % 16,
        count(*) filter (where status = 'succeeded'), count(*) filter (where status = 'failed'),
        count(*) filter (where status = 'cancelled'), count(*) filter (where status = 'running'),
        coalesce(sum(waited) filter (where status = 'running'), 0)
    from (
        select change ->> 0 as agent_type, change ->> 1 as status,
            coalesce((change ->> 2)::timestamptz, now()) as at,
            (change ->> 3)::double precision as waited
        from jsonb_array_elements(p_changes) as c (change)
    ) changes
    group by 1, 2
    order by 1, 2
    on conflict (quarter, agent_type, shard) do update set
        succeeded = h.succeeded + excluded.succeeded, failed = h.failed + excluded.failed,
        cancelled = h.cancelled + excluded.cancelled, begun = h.begun + excluded.begun,
        waited = h.waited + excluded.waited
$$;

-- Notes since when a task waits for a worker: a wait on purpose is none, nor is one for a person.
create or replace function public.actp_ready_task() returns trigger
language plpgsql set search_path = '' as $$
begin
    if new.status = 'queued' then
        new.ready_at = coalesce(new.not_before, case when tg_op = 'UPDATE' then now() end);
    end if;
    return new;
end
$$;

create or replace function public.actp_task_history(p_edges jsonb) returns jsonb
language sql stable set search_path = '' as $$
    with edges as (
        select value::timestamptz as edge from jsonb_array_elements_text(p_edges) as e (value)
    )
    select coalesce(jsonb_agg(to_jsonb(s) order by since, agent_type), '[]') from (
        select agent_type, since, sum(succeeded) as succeeded, sum(failed) as failed,
            sum(cancelled) as cancelled, sum(begun) as begun, sum(waited) as waited
        from (
            select h.*, (select max(edge) from edges where edge <= h.quarter) as since
            from public.actp_task_history h
            where h.quarter >= (select min(edge) from edges)
        ) spans
        group by agent_type, since
    ) s
$$;

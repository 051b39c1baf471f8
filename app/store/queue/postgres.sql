-- The queue of tasks. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

-- A table that was there before may hold tasks in other states, which are none of the worker's.
create or replace function public.actp_task(p_id text) returns jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(t) from public.actp_agent_tasks t
    where id = p_id
        and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
$$;

create or replace function public.actp_add_task(
    p_id text, p_agent_type text, p_goal text, p_context jsonb, p_priority integer,
    p_max_attempts integer
) returns setof public.actp_agent_tasks
language plpgsql set search_path = '' as $$
begin
    insert into public.actp_agent_tasks
        (id, agent_type, goal, context, priority, status, max_attempts, created_at)
    values (p_id, p_agent_type, p_goal, coalesce(p_context, '{}'), p_priority, 'queued', p_max_attempts,
        now())
    on conflict (id) do nothing;
    return query select * from public.actp_agent_tasks where id = p_id;
end
$$;

create or replace function public.actp_begin_task(
    p_id text, p_agent_type text, p_goal text, p_context jsonb, p_routine text, p_worker_id text,
    p_instance text, p_token text, p_lease double precision
) returns jsonb language plpgsql set search_path = '' as $$
begin
    insert into public.actp_agent_tasks
        (id, agent_type, goal, context, routine, status, attempts, worker_id, instance,
         lease_token, lease_until, created_at, started_at)
    values (p_id, p_agent_type, p_goal, coalesce(p_context, '{}'), p_routine, 'running', 1,
        p_worker_id, p_instance, p_token, now() + make_interval(secs => p_lease), now(), now())
    on conflict (id) do nothing;
    return (
        select to_jsonb(t) from public.actp_agent_tasks t
        where id = p_id and lease_token = p_token and status = 'running'
    );
end
$$;

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

-- By agent and status. A table that was there before may hold tasks in other states.
create or replace function public.actp_task_counts() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_object_agg(agent_type, counts), '{}') from (
        select agent_type, jsonb_object_agg(status, tasks) as counts from (
            select agent_type, status, count(*) as tasks
            from public.actp_agent_tasks group by agent_type, status
        ) counted
        where status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
        group by agent_type
    ) by_agent
$$;

create or replace function public.actp_oldest_queued() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_object_agg(agent_type, age), '{}') from (
        select agent_type, greatest(0, extract(epoch from now() - min(created_at))) as age
        from public.actp_agent_tasks where status = 'queued' group by agent_type
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
begin
    -- A caller that gave up waiting may repeat its claim while the first is still at work.
    perform pg_advisory_xact_lock(hashtextextended('actp_claim ' || p_token, 0));
    return query select * from public.actp_agent_tasks
        where lease_token = p_token and status = 'running' and agent_type = p_agent_type;
    if found then
        return;
    end if;
    -- Apart from the claim: with both in one "where", no index would serve either.
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
    return query
        with next as materialized (
            select id from public.actp_agent_tasks
            where agent_type = p_agent_type and status = 'queued'
                and (not_before is null or not_before <= now())
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
            not_before = null,
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
    where id = p_id and status in ('failed', 'cancelled');
    return query select * from public.actp_agent_tasks
        where id = p_id
            and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled');
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

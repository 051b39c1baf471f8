-- What must be atomic, or needs the database's clock. The daemon calls these through PostgREST; one
-- call is one transaction. Ids and tokens come from the caller, so each may be repeated after a lost
-- answer. Lists are returned as one JSON value where the server's limit of rows must not cut them.

-- Which tables with which columns, and which functions, are there.
create or replace function public.actp_schema_check() returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'tables', coalesce((
            select jsonb_object_agg(found.name, found.columns) from (
                select c.relname as name, jsonb_agg(a.attname order by a.attnum) as columns
                from pg_catalog.pg_class c
                join pg_catalog.pg_attribute a
                    on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
                    and (c.relname like 'actp\_%' or c.relname = 'anthropic_cost_log')
                group by c.relname
            ) found
        ), '{}'),
        'functions', (
            select jsonb_agg(distinct p.proname) from pg_catalog.pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname like 'actp\_%'
        )
    )
$$;

create or replace function public.actp_now() returns timestamptz
language sql stable set search_path = '' as $$
    select now()
$$;

-- The registry

create or replace function public.actp_register_agents(p_worker_id text, p_agents jsonb)
returns void language sql set search_path = '' as $$
    insert into public.actp_agent_registry
        (agent_id, class_name, model, status, worker_id, health, last_seen, registered_at)
    select a.agent_id, a.class_name, a.model, a.status, p_worker_id,
        case when a.why is not null then jsonb_build_object('why_disabled', a.why) end, now(), now()
    from jsonb_to_recordset(p_agents)
        as a (agent_id text, class_name text, model text, status text, why text)
    order by a.agent_id
    on conflict (agent_id) do update set
        class_name = excluded.class_name,
        model = excluded.model,
        status = excluded.status,
        worker_id = excluded.worker_id,
        health = coalesce(excluded.health, actp_agent_registry.health),
        last_seen = excluded.last_seen
$$;

create or replace function public.actp_set_status(
    p_agent_id text, p_status text, p_worker_id text
) returns void language sql set search_path = '' as $$
    update public.actp_agent_registry set
        status = p_status, worker_id = coalesce(p_worker_id, worker_id), last_seen = now()
    where agent_id = p_agent_id
$$;

create or replace function public.actp_set_needs_restart(p_agent_id text, p_value boolean)
returns boolean language sql set search_path = '' as $$
    with changed as (
        update public.actp_agent_registry set needs_restart = p_value, restart_token = null
        where agent_id = p_agent_id
        returning 1
    )
    select exists (select from changed)
$$;

create or replace function public.actp_take_restart_requests(p_agent_ids jsonb, p_token text)
returns jsonb language sql set search_path = '' as $$
    with taken as (
        update public.actp_agent_registry set needs_restart = false, restart_token = p_token
        where agent_id in (select jsonb_array_elements_text(p_agent_ids))
            and (needs_restart or restart_token = p_token)
        returning agent_id
    )
    select coalesce(jsonb_agg(agent_id), '[]') from taken
$$;

create or replace function public.actp_record_heartbeat(
    p_agent_id text, p_health jsonb, p_status text, p_worker_id text
) returns void language sql set search_path = '' as $$
    update public.actp_agent_registry
    set last_heartbeat = now(), last_seen = now(), health = p_health,
        status = coalesce(p_status, status), worker_id = coalesce(p_worker_id, worker_id)
    where agent_id = p_agent_id;
    update public.actp_agent_runs set last_heartbeat = now()
    where agent_id = p_agent_id and finished_at is null
        and worker_id = coalesce(p_worker_id, worker_id);
$$;

create or replace function public.actp_agents() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(
        to_jsonb(r) || jsonb_build_object(
            'heartbeat_age', case when r.last_heartbeat is not null then
                greatest(0, extract(epoch from now() - r.last_heartbeat)) end
        ) order by r.agent_id collate "C"
    ), '[]')
    from public.actp_agent_registry r
$$;

-- Daemons

create or replace function public.actp_live_workers() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(jsonb_build_object(
        'worker_id', worker_id, 'instance', instance, 'started_at', started_at,
        'last_seen', coalesce(last_seen, started_at), 'agents', agents,
        'seen_age', greatest(0, extract(epoch from now() - coalesce(last_seen, started_at)))
    ) order by started_at, seq), '[]')
    from public.actp_workers where ended_at is null
$$;

create or replace function public.actp_worker_of(p_instance text) returns text
language sql stable set search_path = '' as $$
    select coalesce(
        (select worker_id from public.actp_workers where instance = p_instance), p_instance
    )
$$;

-- Runs

create or replace function public.actp_start_run(p_id text, p_agent_id text, p_instance text)
returns void language sql set search_path = '' as $$
    insert into public.actp_agent_runs (id, agent_id, worker_id, instance, started_at)
    values (p_id, p_agent_id, public.actp_worker_of(p_instance), p_instance, now())
    on conflict (id) do nothing
$$;

create or replace function public.actp_finish_run(p_id text, p_outcome text, p_error text)
returns void language sql set search_path = '' as $$
    update public.actp_agent_runs
    set outcome = p_outcome, error = p_error, finished_at = now()
    where id = p_id and finished_at is null
$$;

create or replace function public.actp_crash_ages(p_agent_id text, p_within double precision)
returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(
        greatest(0, extract(epoch from now() - finished_at)) order by finished_at desc
    ), '[]')
    from public.actp_agent_runs
    where agent_id = p_agent_id and outcome = 'crashed'
        and finished_at >= now() - make_interval(secs => p_within)
$$;

-- Tasks

create or replace function public.actp_add_task(
    p_id text, p_agent_type text, p_goal text, p_context jsonb, p_priority integer,
    p_max_attempts integer
) returns setof public.actp_agent_tasks
language plpgsql set search_path = '' as $$
begin
    insert into public.actp_agent_tasks
        (id, agent_type, goal, context, priority, status, max_attempts, created_at)
    values (p_id, p_agent_type, p_goal, p_context, p_priority, 'queued', p_max_attempts, now())
    on conflict (id) do nothing;
    return query select * from public.actp_agent_tasks where id = p_id;
end
$$;

create or replace function public.actp_oldest_queued() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_object_agg(agent_type, age), '{}') from (
        select agent_type, greatest(0, extract(epoch from now() - min(created_at))) as age
        from public.actp_agent_tasks where status = 'queued' group by agent_type
    ) waiting
$$;

-- A table that was there before may hold tasks in other states, which are none of the worker's.
create or replace function public.actp_count_tasks() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(counted)), '[]') from (
        select agent_type, status, count(*) as tasks
        from public.actp_agent_tasks group by agent_type, status
    ) counted
    where status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')
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
    p_id text, p_token text, p_uncounted integer, p_delay double precision, p_error text
) returns boolean language plpgsql set search_path = '' as $$
declare
    held public.actp_agent_tasks;
begin
    select * into held from public.actp_agent_tasks
    where id = p_id and lease_token = p_token and status = 'running'
    for update;
    if found then
        perform public.actp_hand_back(
            p_id, p_uncounted, coalesce(p_error, held.error), p_token, p_delay
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
    where id = p_id and (status = 'queued' or (status = 'running' and lease_until < now()));
    update public.actp_agent_tasks set cancel_requested = true
    where id = p_id and status = 'running';
    return query select * from public.actp_agent_tasks where id = p_id;
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
    return query select * from public.actp_agent_tasks where id = p_id;
end
$$;

-- A daemon has ended: what it had in hand goes back, what it had begun is interrupted.
create or replace function public.actp_forget_worker(p_instance text)
returns void language plpgsql set search_path = '' as $$
declare
    orphan public.actp_agent_tasks;
begin
    -- First, as in actp_touch_worker: two that lock in another order would wait for each other.
    update public.actp_workers set ended_at = now()
    where instance = p_instance and ended_at is null;
    for orphan in
        select * from public.actp_agent_tasks
        where instance = p_instance and status = 'running'
        order by id
        for update
    loop
        perform public.actp_hand_back(orphan.id, 0, format(
            '%s ended in attempt %s of %s', orphan.worker_id, orphan.attempts, orphan.max_attempts
        ), null, 0);
    end loop;
    update public.actp_agent_runs set outcome = 'interrupted', finished_at = now()
    where instance = p_instance and finished_at is null;
    update public.actp_job_runs set outcome = 'interrupted', finished_at = now()
    where instance = p_instance and finished_at is null;
    delete from public.actp_leases where instance = p_instance;
end
$$;

-- Notes that a daemon is there, and forgets the others that have been silent for too long.
create or replace function public.actp_touch_worker(
    p_worker_id text, p_instance text, p_agents jsonb, p_silent_after double precision
) returns jsonb language plpgsql set search_path = '' as $$
declare
    silent record;
    forgotten jsonb = '[]';
begin
    insert into public.actp_workers as w (instance, worker_id, started_at, last_seen, agents)
    values (p_instance, p_worker_id, now(), now(), p_agents)
    on conflict (instance) do update set
        worker_id = excluded.worker_id, last_seen = excluded.last_seen,
        agents = excluded.agents, ended_at = null;
    for silent in
        select instance, worker_id from public.actp_workers
        where ended_at is null and instance <> p_instance
            and coalesce(last_seen, started_at) < now() - make_interval(secs => p_silent_after)
        order by started_at, seq
        for update skip locked  -- another daemon is at it, or it shows itself
    loop
        perform public.actp_forget_worker(silent.instance);
        forgotten = forgotten || to_jsonb(silent.worker_id);
    end loop;
    return forgotten;
end
$$;

-- Leases

create or replace function public.actp_hold_lease(
    p_name text, p_instance text, p_lease double precision
) returns jsonb language plpgsql set search_path = '' as $$
begin
    insert into public.actp_leases as l (name, instance, worker_id, expires_at)
    values (p_name, p_instance, public.actp_worker_of(p_instance),
        now() + make_interval(secs => p_lease))
    on conflict (name) do update set
        instance = excluded.instance, worker_id = excluded.worker_id,
        expires_at = excluded.expires_at
    where l.instance = excluded.instance or l.expires_at < now();
    return (
        select jsonb_build_object('instance', instance, 'worker_id', worker_id)
        from public.actp_leases where name = p_name
    );
end
$$;

create or replace function public.actp_drop_lease(p_name text, p_instance text)
returns void language sql set search_path = '' as $$
    delete from public.actp_leases where name = p_name and instance = p_instance
$$;

-- What agents do

create or replace function public.actp_record_turn(p_turn jsonb)
returns void language sql set search_path = '' as $$
    insert into public.actp_task_turns
        (id, task_id, agent_id, run_id, step, role, content, created_at)
    select id, task_id, agent_id, run_id, step, role, content, now()
    from jsonb_to_record(p_turn) as t (
        id text, task_id text, agent_id text, run_id text, step integer, role text, content jsonb
    )
    on conflict (id) do nothing
$$;

create or replace function public.actp_turns(p_task_id text, p_after text, p_limit integer)
returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.seq), '[]') from (
        select * from public.actp_task_turns
        where task_id = p_task_id
            and seq > coalesce((select seq from public.actp_task_turns where id = p_after), 0)
        order by seq
        limit p_limit
    ) t
$$;

create or replace function public.actp_forget_turns(
    p_older_than double precision, p_limit integer
) returns void language sql set search_path = '' as $$
    delete from public.actp_task_turns where id in (
        select id from public.actp_task_turns
        where created_at < now() - make_interval(secs => p_older_than)
        order by created_at
        limit p_limit
        for update skip locked
    )
$$;

create or replace function public.actp_record_tool_call(p_call jsonb)
returns void language sql set search_path = '' as $$
    insert into public.actp_tool_call_log
        (id, agent_id, run_id, task_id, tool, arguments, duration, error, result, called_at)
    select id, agent_id, run_id, task_id, tool, arguments, duration, error, result, now()
    from jsonb_to_record(p_call) as c (
        id text, agent_id text, run_id text, task_id text, tool text, arguments jsonb,
        duration double precision, error text, result text
    )
    on conflict (id) do nothing
$$;

create or replace function public.actp_tool_stats(p_agent_id text, p_within double precision)
returns jsonb language sql stable set search_path = '' as $$
    select coalesce(
        jsonb_agg(to_jsonb(s) order by s.calls desc, s.tool collate "C"), '[]'
    ) from (
        select tool, count(*) as calls, count(error) as errors, avg(duration) as mean_duration,
            max(duration) as max_duration, max(called_at) as last_called_at
        from public.actp_tool_call_log
        where agent_id = p_agent_id and called_at >= now() - make_interval(secs => p_within)
        group by tool
    ) s
$$;

create or replace function public.actp_release_budget(p_id text)
returns void language sql set search_path = '' as $$
    delete from public.actp_budget_reservations where id = p_id
$$;

create or replace function public.actp_record_cost(p_entry jsonb, p_reservation text)
returns void language sql set search_path = '' as $$
    insert into public.anthropic_cost_log
        (id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cache_read_tokens,
         cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, priced, request_id, created_at)
    select id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cache_read_tokens,
        cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, priced, request_id, now()
    from jsonb_to_record(p_entry) as e (
        id text, agent_id text, run_id text, task_id text, model text, input_tokens bigint,
        output_tokens bigint, cache_read_tokens bigint, cache_write_5m_tokens bigint,
        cache_write_1h_tokens bigint, cost_usd double precision, priced boolean, request_id text
    )
    on conflict (id) do nothing;
    select public.actp_release_budget(p_reservation);
$$;

create or replace function public.actp_costs(p_since timestamptz, p_agent_id text)
returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(
        to_jsonb(s) order by s.day, s.agent_id collate "C", s.model collate "C"
    ), '[]') from (
        select agent_id, model, (created_at at time zone 'utc')::date as day, count(*) as calls,
            sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
            sum(cache_read_tokens) as cache_read_tokens,
            sum(cache_write_5m_tokens + cache_write_1h_tokens) as cache_write_tokens,
            sum(cost_usd) as cost_usd
        from public.anthropic_cost_log
        where created_at >= p_since and (p_agent_id is null or agent_id = p_agent_id)
        group by 1, 2, 3
    ) s
$$;

create or replace function public.actp_reserve_budget(
    p_id text, p_agent_id text, p_since timestamptz, p_limit double precision,
    p_amount double precision, p_lifetime double precision
) returns boolean language plpgsql set search_path = '' as $$
begin
    -- One at a time for an agent; each statement after it sees what the one before committed.
    perform pg_advisory_xact_lock(hashtextextended('actp_budget ' || p_agent_id, 0));
    delete from public.actp_budget_reservations
    where agent_id = p_agent_id and expires_at < now();
    if exists (select from public.actp_budget_reservations where id = p_id) then
        return true;
    end if;
    -- The tolerance is for sums of floats: three tenths are not three times a tenth.
    if p_amount
        + (select coalesce(sum(cost_usd), 0) from public.anthropic_cost_log
            where agent_id = p_agent_id and created_at >= p_since)
        + (select coalesce(sum(amount_usd), 0) from public.actp_budget_reservations
            where agent_id = p_agent_id)
        > p_limit + 1e-9
    then
        return false;
    end if;
    insert into public.actp_budget_reservations (id, agent_id, amount_usd, created_at, expires_at)
    values (p_id, p_agent_id, p_amount, now(), now() + make_interval(secs => p_lifetime));
    return true;
end
$$;

create or replace function public.actp_begin_effect(
    p_key text, p_agent_id text, p_task_id text, p_token text
) returns jsonb language plpgsql set search_path = '' as $$
declare
    known public.actp_effects;
begin
    insert into public.actp_effects (key, agent_id, task_id, token, began_at)
    values (p_key, p_agent_id, p_task_id, p_token, now())
    on conflict (key) do nothing;
    if found then
        return jsonb_build_object('state', 'new');
    end if;
    select * into known from public.actp_effects where key = p_key;
    if known.finished_at is not null then
        return jsonb_build_object('state', 'done', 'result', known.result);
    end if;
    return jsonb_build_object('state', case when known.token = p_token then 'new' else 'unknown' end);
end
$$;

create or replace function public.actp_finish_effect(p_key text, p_result jsonb)
returns void language sql set search_path = '' as $$
    update public.actp_effects set result = p_result, finished_at = now()
    where key = p_key and finished_at is null
$$;

create or replace function public.actp_drop_effect(p_key text)
returns void language sql set search_path = '' as $$
    delete from public.actp_effects where key = p_key and finished_at is null
$$;

-- Memory

create or replace function public.actp_remember(p_agent_id text, p_key text, p_value text)
returns void language sql set search_path = '' as $$
    insert into public.actp_agent_memory (agent_id, key, value, created_at, updated_at)
    values (p_agent_id, p_key, p_value, now(), now())
    on conflict (agent_id, key) do update
        set value = excluded.value, updated_at = excluded.updated_at
$$;

-- "***=" makes the rest of a pattern plain text, and "~*" takes upper and lower case alike.
create or replace function public.actp_recall(
    p_agent_id text, p_key text, p_search text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(m) order by m.updated_at desc, m.seq desc), '[]') from (
        select * from public.actp_agent_memory
        where agent_id = p_agent_id
            and (p_key is null or key = p_key)
            and (p_search is null
                or key ~* ('***=' || p_search) or value ~* ('***=' || p_search))
        order by updated_at desc, seq desc
        limit p_limit
    ) m
$$;

create or replace function public.actp_forget(p_agent_id text, p_key text)
returns boolean language sql set search_path = '' as $$
    with dropped as (
        delete from public.actp_agent_memory where agent_id = p_agent_id and key = p_key
        returning 1
    )
    select exists (select from dropped)
$$;

-- The scheduler's journal

create or replace function public.actp_claim_fire(
    p_job_name text, p_scheduled_at timestamptz, p_instance text
) returns boolean language plpgsql set search_path = '' as $$
begin
    insert into public.actp_job_runs (job_name, scheduled_at, worker_id, instance, claimed_at)
    values (p_job_name, p_scheduled_at, public.actp_worker_of(p_instance), p_instance, now())
    on conflict (job_name, scheduled_at) do nothing;
    return exists (
        select from public.actp_job_runs
        where job_name = p_job_name and scheduled_at = p_scheduled_at
            and instance = p_instance and finished_at is null
    );
end
$$;

create or replace function public.actp_finish_fire(
    p_job_name text, p_scheduled_at timestamptz, p_outcome text, p_error text
) returns void language sql set search_path = '' as $$
    update public.actp_job_runs set outcome = p_outcome, error = p_error, finished_at = now()
    where job_name = p_job_name and scheduled_at = p_scheduled_at and finished_at is null
$$;

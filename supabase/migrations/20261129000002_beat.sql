-- The beat, pauses, tasks that wait, sums that are kept, retention.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

alter table public.actp_agent_registry
    add column if not exists paused_by text,
    add column if not exists paused_at timestamptz;
alter table public.actp_agent_tasks
    add column if not exists timeout double precision,
    add column if not exists unique_key text;

create table if not exists public.actp_task_totals (
    agent_type text not null,
    status text not null,
    shard integer not null default 0,
    tasks bigint not null default 0,
    primary key (agent_type, status, shard)
);
create table if not exists public.actp_cost_days (
    day date not null,
    agent_id text not null,
    model text not null,
    calls bigint not null default 0,
    input_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    cache_read_tokens bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    cost_usd double precision not null default 0,
    primary key (day, agent_id, model)
);

-- The claim: priority first, then age. Apart from tasks that wait for their time, or each claim
-- would pass by all of them.
create index if not exists actp_agent_tasks_ready
    on public.actp_agent_tasks (agent_type, priority desc, seq)
    where status = 'queued' and not_before is null;
create index if not exists actp_agent_tasks_later
    on public.actp_agent_tasks (agent_type, not_before)
    where status = 'queued' and not_before is not null;
create index if not exists actp_agent_tasks_age
    on public.actp_agent_tasks (agent_type, created_at)
    where status = 'queued' and not_before is null;
create index if not exists actp_agent_tasks_live
    on public.actp_agent_tasks (agent_type, status)
    where status in ('queued', 'running', 'waiting');
create index if not exists actp_agent_tasks_of_status
    on public.actp_agent_tasks (agent_type, status, seq);
create unique index if not exists actp_agent_tasks_unique
    on public.actp_agent_tasks (agent_type, unique_key)
    where unique_key is not null and status in ('queued', 'running', 'waiting');
drop index if exists public.actp_agent_tasks_to_claim;
drop index if exists public.actp_agent_tasks_counts;
-- What is deleted when it is over for long.
create index if not exists actp_agent_tasks_over
    on public.actp_agent_tasks (finished_at)
    where status in ('succeeded', 'failed', 'cancelled');
create index if not exists actp_agent_runs_over
    on public.actp_agent_runs (finished_at) where finished_at is not null;
create index if not exists actp_tool_call_log_over
    on public.actp_tool_call_log (called_at);
create index if not exists actp_job_runs_over
    on public.actp_job_runs (finished_at) where finished_at is not null;
create index if not exists actp_effects_by_time
    on public.actp_effects (began_at);

create or replace function public.actp_set_paused(p_agent_id text, p_by text)
returns boolean language sql set search_path = '' as $$
    with changed as (
        update public.actp_agent_registry set
            paused_at = case when p_by is not null then coalesce(paused_at, now()) end,
            paused_by = case when p_by is not null then coalesce(paused_by, p_by) end
        where agent_id = p_agent_id
        returning 1
    )
    select exists (select from changed)
$$;

-- Whether an agent has a task that could be claimed. Each branch has an index of its own.
create or replace function public.actp_has_work(p_agent_type text) returns boolean
language sql stable set search_path = '' as $$
    select not exists (
            select from public.actp_agent_registry
            where agent_id = p_agent_type and paused_at is not null
        )
        and (
            exists (
                select from public.actp_agent_tasks
                where agent_type = p_agent_type and status = 'queued' and not_before is null
            )
            or exists (
                select from public.actp_agent_tasks
                where agent_type = p_agent_type and status = 'queued' and not_before <= now()
            )
            or exists (
                select from public.actp_agent_tasks
                where agent_type = p_agent_type and status = 'running' and lease_until < now()
            )
        )
$$;

create or replace function public.actp_beat(
    p_instance text, p_agents jsonb, p_tokens jsonb, p_leases jsonb, p_lease double precision,
    p_request text, p_presence jsonb
) returns jsonb language plpgsql set search_path = '' as $$
declare
    served constant text[] = array(select jsonb_array_elements_text(p_agents));
    held constant text[] = array(select jsonb_array_elements_text(p_tokens));
    wanted constant text[] = array(select jsonb_array_elements_text(p_leases));
    asked constant boolean = exists (
        select from public.actp_agent_registry
        where agent_id = any (served) and (needs_restart or restart_token = p_request)
    );
    heart record;
    lease_name text;
    dead jsonb = '[]';
    restarts jsonb = '[]';
    unregistered jsonb = '[]';
begin
    if asked or p_presence is not null then
        -- All in one order: two that lock in another order would wait for each other.
        perform from public.actp_agent_registry
        where agent_id = any (served) or p_presence -> 'agents' ? agent_id
        order by agent_id for update;
    end if;
    if p_presence is not null then
        for heart in
            select * from jsonb_to_recordset(p_presence -> 'heartbeats')
                as h (agent_id text, status text, health jsonb)
        loop
            perform public.actp_record_heartbeat(
                heart.agent_id, heart.health, heart.status, p_presence ->> 'worker_id'
            );
        end loop;
        unregistered = (
            select coalesce(jsonb_agg(agent_id order by agent_id), '[]')
            from jsonb_object_keys(p_presence -> 'agents') as ours (agent_id)
            where not exists (
                select from public.actp_agent_registry r where r.agent_id = ours.agent_id
            )
        );
        dead = public.actp_touch_worker(
            p_presence ->> 'worker_id', p_instance, p_presence -> 'agents',
            (p_presence ->> 'silent_after')::double precision
        );
    end if;
    if asked then
        restarts = public.actp_take_restart_requests(p_agents, p_request);
    end if;
    foreach lease_name in array wanted loop
        perform public.actp_hold_lease(lease_name, p_instance, p_lease);
    end loop;
    update public.actp_agent_tasks t set lease_until = now() + make_interval(secs => p_lease)
    from (
        select id from public.actp_agent_tasks
        where status = 'running' and lease_token = any (held)
            and lease_until < now() + make_interval(secs => p_lease * 2 / 3)
        for update skip locked  -- it is being settled
    ) due
    where t.id = due.id;
    return jsonb_build_object(
        'now', now(),
        'dead', dead,
        'restarts', restarts,
        'unregistered', unregistered,
        'work', (
            select coalesce(jsonb_agg(agent_id), '[]') from unnest(served) as s (agent_id)
            where public.actp_has_work(agent_id)
        ),
        'pauses', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'agent_id', agent_id, 'paused_by', coalesce(paused_by, ''), 'paused_at', paused_at
            ) order by agent_id), '[]')
            from public.actp_agent_registry where paused_at is not null
        ),
        'ended', (
            select coalesce(jsonb_agg(jsonb_build_object('token', h.token, 'state',
                case when t.id is null then 'lost' else 'cancel_requested' end)), '[]')
            from unnest(held) as h (token)
            left join public.actp_agent_tasks t
                on t.lease_token = h.token and t.status = 'running'
            where t.id is null or t.cancel_requested
        ),
        'leases', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'name', name, 'instance', instance, 'worker_id', worker_id
            )), '[]')
            from public.actp_leases where name = any (wanted)
        )
    );
end
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
    if exists (
        select from public.actp_agent_registry
        where agent_id = p_agent_type and paused_at is not null
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
            and status in ('queued', 'running', 'succeeded', 'failed', 'cancelled');
end
$$;

create or replace function public.actp_cancel_tasks(p_which jsonb, p_limit integer)
returns integer language plpgsql set search_path = '' as $$
declare
    found_task record;
    concerned integer = 0;
begin
    for found_task in
        select id from public.actp_agent_tasks
        where status in ('queued', 'running')
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
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
    end if;
    return null;
end
$$;

create or replace function public.actp_forget_old(
    p_what text, p_older_than double precision, p_limit integer
) returns integer language plpgsql set search_path = '' as $$
declare
    before constant timestamptz = now() - make_interval(secs => p_older_than);
    gone text[];
    deleted integer;
begin
    if p_what = 'tasks' then
        gone = array(
            select id from public.actp_agent_tasks
            where status in ('succeeded', 'failed', 'cancelled') and finished_at < before
            order by finished_at limit greatest(p_limit, 0) for update skip locked
        );
        delete from public.actp_task_turns where task_id = any (gone);
        delete from public.actp_agent_tasks where id = any (gone);
    elsif p_what = 'fires' then
        -- By the latest one the scheduler knows from when on moments were missed.
        delete from public.actp_job_runs where ctid = any (array(
            select ctid from public.actp_job_runs fire
            where finished_at < before and scheduled_at < (
                select max(scheduled_at) from public.actp_job_runs later
                where later.job_name = fire.job_name
            )
            order by finished_at limit greatest(p_limit, 0) for update skip locked
        ));
    else
        execute format(
            'delete from public.%1$I where ctid = any (array('
            'select ctid from public.%1$I where %2$I < $1 order by %2$I limit $2'
            ' for update skip locked))',
            case p_what
                when 'turns' then 'actp_task_turns'
                when 'runs' then 'actp_agent_runs'
                when 'tool_calls' then 'actp_tool_call_log'
                when 'costs' then 'anthropic_cost_log'
                when 'effects' then 'actp_effects'
                when 'workers' then 'actp_workers'
            end,
            case
                when p_what in ('turns', 'costs') then 'created_at'
                when p_what = 'runs' then 'finished_at'
                when p_what = 'tool_calls' then 'called_at'
                when p_what = 'effects' then 'began_at'
                else 'ended_at'
            end
        ) using before, greatest(p_limit, 0);
    end if;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

-- Whole days from the sums that are kept; of the day in which the moment is, what came after it.
create or replace function public.actp_costs(p_since timestamptz, p_agent_id text)
returns jsonb language sql stable set search_path = '' as $$
    with since as (
        select ((p_since at time zone 'utc') + interval '1 day' - interval '1 microsecond')::date
            as first_day
    )
    select coalesce(jsonb_agg(
        to_jsonb(s) order by s.day, s.agent_id collate "C", s.model collate "C"
    ), '[]') from (
        select agent_id, model, day, sum(calls) as calls, sum(input_tokens) as input_tokens,
            sum(output_tokens) as output_tokens, sum(cache_read_tokens) as cache_read_tokens,
            sum(cache_write_tokens) as cache_write_tokens, sum(cost_usd) as cost_usd
        from (
            select agent_id, model, day, calls, input_tokens, output_tokens, cache_read_tokens,
                cache_write_tokens, cost_usd
            from public.actp_cost_days
            where day >= (select first_day from since)
            union all
            select agent_id, model, (created_at at time zone 'utc')::date, 1, input_tokens,
                output_tokens, cache_read_tokens,
                cache_write_5m_tokens + cache_write_1h_tokens, cost_usd
            from public.anthropic_cost_log
            where created_at >= p_since
                and created_at < (select first_day from since)::timestamp at time zone 'utc'
        ) parts
        where p_agent_id is null or agent_id = p_agent_id
        group by 1, 2, 3
    ) s
$$;

-- Adds an entry to the sums, or takes it off.
create or replace function public.actp_add_costs(
    p_entry public.anthropic_cost_log, p_times integer
) returns void language sql set search_path = '' as $$
    insert into public.actp_cost_days as d
        (day, agent_id, model, calls, input_tokens, output_tokens, cache_read_tokens,
         cache_write_tokens, cost_usd)
    values ((p_entry.created_at at time zone 'utc')::date, p_entry.agent_id, p_entry.model,
        p_times, p_times * p_entry.input_tokens, p_times * p_entry.output_tokens,
        p_times * p_entry.cache_read_tokens,
        p_times * (p_entry.cache_write_5m_tokens + p_entry.cache_write_1h_tokens),
        p_times * p_entry.cost_usd)
    on conflict (day, agent_id, model) do update set
        calls = d.calls + excluded.calls,
        input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        cache_read_tokens = d.cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
        cost_usd = d.cost_usd + excluded.cost_usd
$$;

-- Keeps the sums of costs; they stay when the entries are deleted.
create or replace function public.actp_sum_costs() returns trigger
language plpgsql set search_path = '' as $$
begin
    if tg_op = 'UPDATE' then
        perform public.actp_add_costs(old, -1);
    end if;
    perform public.actp_add_costs(new, 1);
    return null;
end
$$;

-- Before the sums are made of what is there: the triggers lock the tables, so nothing is missed.
create or replace trigger actp_task_totals_insert after insert on public.actp_agent_tasks
    referencing new table as added
    for each statement execute function public.actp_sum_tasks();
create or replace trigger actp_task_totals_delete after delete on public.actp_agent_tasks
    referencing old table as removed
    for each statement execute function public.actp_sum_tasks();
create or replace trigger actp_task_totals_update after update on public.actp_agent_tasks
    referencing old table as removed new table as added
    for each statement execute function public.actp_sum_tasks();
create or replace trigger actp_task_totals_truncate after truncate on public.actp_agent_tasks
    for each statement execute function public.actp_sum_tasks();
create or replace trigger actp_cost_days_insert after insert or update on public.anthropic_cost_log
    for each row execute function public.actp_sum_costs();

delete from public.actp_task_totals where true;
insert into public.actp_task_totals (agent_type, status, tasks)
select agent_type, status, count(*) from public.actp_agent_tasks
where status in ('succeeded', 'failed', 'cancelled') group by agent_type, status;

-- Once: the entries of days that have sums may be deleted by now.
insert into public.actp_cost_days
select (created_at at time zone 'utc')::date, agent_id, model, count(*), sum(input_tokens),
    sum(output_tokens), sum(cache_read_tokens),
    sum(cache_write_5m_tokens + cache_write_1h_tokens), sum(cost_usd)
from public.anthropic_cost_log
where not exists (select from public.actp_cost_days)
group by 1, 2, 3;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000002
$$;

-- Only the service role gets in.
alter table public.actp_task_totals enable row level security;
alter table public.actp_cost_days enable row level security;
revoke all on table public.actp_task_totals, public.actp_cost_days
    from public, anon, authenticated;
grant select, insert, update, delete on table public.actp_task_totals, public.actp_cost_days
    to service_role;

revoke all on function public.actp_set_paused(text, text) from public, anon, authenticated;
grant execute on function public.actp_set_paused(text, text) to service_role;
revoke all on function public.actp_has_work(text) from public, anon, authenticated;
grant execute on function public.actp_has_work(text) to service_role;
revoke all on function public.actp_beat(text, jsonb, jsonb, jsonb, double precision, text, jsonb) from public, anon, authenticated;
grant execute on function public.actp_beat(text, jsonb, jsonb, jsonb, double precision, text, jsonb) to service_role;
revoke all on function public.actp_add_task(text, text, text, jsonb, integer, integer, timestamp with time zone, double precision, text) from public, anon, authenticated;
grant execute on function public.actp_add_task(text, text, text, jsonb, integer, integer, timestamp with time zone, double precision, text) to service_role;
revoke all on function public.actp_claim_task(text, text, text, text, double precision) from public, anon, authenticated;
grant execute on function public.actp_claim_task(text, text, text, text, double precision) to service_role;
revoke all on function public.actp_retry_task(text) from public, anon, authenticated;
grant execute on function public.actp_retry_task(text) to service_role;
revoke all on function public.actp_cancel_tasks(jsonb, integer) from public, anon, authenticated;
grant execute on function public.actp_cancel_tasks(jsonb, integer) to service_role;
revoke all on function public.actp_retry_tasks(jsonb, integer) from public, anon, authenticated;
grant execute on function public.actp_retry_tasks(jsonb, integer) to service_role;
revoke all on function public.actp_task_counts() from public, anon, authenticated;
grant execute on function public.actp_task_counts() to service_role;
revoke all on function public.actp_oldest_queued() from public, anon, authenticated;
grant execute on function public.actp_oldest_queued() to service_role;
revoke all on function public.actp_add_totals(jsonb) from public, anon, authenticated;
grant execute on function public.actp_add_totals(jsonb) to service_role;
revoke all on function public.actp_sum_tasks() from public, anon, authenticated;
grant execute on function public.actp_sum_tasks() to service_role;
revoke all on function public.actp_forget_old(text, double precision, integer) from public, anon, authenticated;
grant execute on function public.actp_forget_old(text, double precision, integer) to service_role;
revoke all on function public.actp_costs(timestamp with time zone, text) from public, anon, authenticated;
grant execute on function public.actp_costs(timestamp with time zone, text) to service_role;
revoke all on function public.actp_add_costs(anthropic_cost_log, integer) from public, anon, authenticated;
grant execute on function public.actp_add_costs(anthropic_cost_log, integer) to service_role;
revoke all on function public.actp_sum_costs() from public, anon, authenticated;
grant execute on function public.actp_sum_costs() to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

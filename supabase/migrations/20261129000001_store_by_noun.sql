-- Store by noun.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

create or replace function public.actp_tool_calls(
    p_agent_id text, p_task_id text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(c) order by c.seq desc), '[]') from (
        select * from public.actp_tool_call_log
        where (p_agent_id is null or agent_id = p_agent_id)
            and (p_task_id is null or task_id = p_task_id)
        order by seq desc
        limit greatest(p_limit, 0)
    ) c
$$;

create or replace function public.actp_last_fire(p_job_name text) returns timestamptz
language sql stable set search_path = '' as $$
    select max(scheduled_at) from public.actp_job_runs where job_name = p_job_name
$$;

create or replace function public.actp_fires(p_job_name text, p_limit integer) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(f) order by f.scheduled_at desc), '[]') from (
        select * from public.actp_job_runs where job_name = p_job_name
        order by scheduled_at desc
        limit greatest(p_limit, 0)
    ) f
$$;

create or replace function public.actp_task(p_id text) returns setof jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(t) from public.actp_agent_tasks t
    where id = p_id
        and status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')
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

create or replace function public.actp_tasks(
    p_status text, p_agent_type text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.seq desc), '[]') from (
        select * from public.actp_agent_tasks
        where (p_status is null or status = p_status)
            and (p_agent_type is null or agent_type = p_agent_type)
            and status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')
        order by seq desc
        limit greatest(p_limit, 0)
    ) t
$$;

create or replace function public.actp_task_counts() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_object_agg(agent_type, counts), '{}') from (
        select agent_type, jsonb_object_agg(status, tasks) as counts from (
            select agent_type, status, count(*) as tasks
            from public.actp_agent_tasks group by agent_type, status
        ) counted
        where status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')
        group by agent_type
    ) by_agent
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
    where id = p_id and (status = 'queued' or (status = 'running' and lease_until < now()));
    update public.actp_agent_tasks set cancel_requested = true
    where id = p_id and status = 'running';
    return query select * from public.actp_agent_tasks
        where id = p_id
            and status in ('queued', 'running', 'succeeded', 'failed', 'cancelled');
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
            and status in ('queued', 'running', 'succeeded', 'failed', 'cancelled');
end
$$;

create or replace function public.actp_runs(p_agent_id text, p_limit integer) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(r) order by r.seq desc), '[]') from (
        select * from public.actp_agent_runs
        where agent_id = p_agent_id
            and (outcome is null or outcome in ('stopped', 'crashed', 'interrupted'))
        order by seq desc
        limit greatest(p_limit, 0)
    ) r
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000001
$$;

revoke all on function public.actp_tool_calls(text, text, integer) from public, anon, authenticated;
grant execute on function public.actp_tool_calls(text, text, integer) to service_role;
revoke all on function public.actp_last_fire(text) from public, anon, authenticated;
grant execute on function public.actp_last_fire(text) to service_role;
revoke all on function public.actp_fires(text, integer) from public, anon, authenticated;
grant execute on function public.actp_fires(text, integer) to service_role;
revoke all on function public.actp_task(text) from public, anon, authenticated;
grant execute on function public.actp_task(text) to service_role;
revoke all on function public.actp_add_task(text, text, text, jsonb, integer, integer) from public, anon, authenticated;
grant execute on function public.actp_add_task(text, text, text, jsonb, integer, integer) to service_role;
revoke all on function public.actp_tasks(text, text, integer) from public, anon, authenticated;
grant execute on function public.actp_tasks(text, text, integer) to service_role;
revoke all on function public.actp_task_counts() from public, anon, authenticated;
grant execute on function public.actp_task_counts() to service_role;
revoke all on function public.actp_release_task(text, text, boolean, double precision, text) from public, anon, authenticated;
grant execute on function public.actp_release_task(text, text, boolean, double precision, text) to service_role;
revoke all on function public.actp_cancel_task(text) from public, anon, authenticated;
grant execute on function public.actp_cancel_task(text) to service_role;
revoke all on function public.actp_retry_task(text) from public, anon, authenticated;
grant execute on function public.actp_retry_task(text) to service_role;
revoke all on function public.actp_runs(text, integer) from public, anon, authenticated;
grant execute on function public.actp_runs(text, integer) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

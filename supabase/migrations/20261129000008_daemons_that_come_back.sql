-- Daemons that come back.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

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
            and instance = p_instance
            and (finished_at is null or outcome = 'interrupted')
    );
end
$$;

create or replace function public.actp_finish_fire(
    p_job_name text, p_scheduled_at timestamptz, p_outcome text, p_error text
) returns void language sql set search_path = '' as $$
    update public.actp_job_runs set outcome = p_outcome, error = p_error, finished_at = now()
    where job_name = p_job_name and scheduled_at = p_scheduled_at
        and (finished_at is null or outcome = 'interrupted')
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

create or replace function public.actp_touch_worker(
    p_worker_id text, p_instance text, p_agents jsonb, p_silent_after double precision
) returns jsonb language plpgsql set search_path = '' as $$
declare
    silent record;
    forgotten jsonb = '[]';
begin
    -- It was taken for dead and is there again, so what it has begun goes on.
    perform from public.actp_workers
    where instance = p_instance and ended_at is not null for update;
    if found then
        update public.actp_agent_runs set outcome = null, finished_at = null
        where instance = p_instance and outcome = 'interrupted';
        update public.actp_job_runs set outcome = null, finished_at = null
        where instance = p_instance and outcome = 'interrupted';
    end if;
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

create or replace function public.actp_finish_run(p_id text, p_outcome text, p_error text)
returns void language sql set search_path = '' as $$
    update public.actp_agent_runs
    set outcome = p_outcome, error = p_error, finished_at = now()
    where id = p_id and (finished_at is null or outcome = 'interrupted')
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000008
$$;

revoke all on function public.actp_claim_fire(text, timestamp with time zone, text) from public, anon, authenticated;
grant execute on function public.actp_claim_fire(text, timestamp with time zone, text) to service_role;
revoke all on function public.actp_finish_fire(text, timestamp with time zone, text, text) from public, anon, authenticated;
grant execute on function public.actp_finish_fire(text, timestamp with time zone, text, text) to service_role;
revoke all on function public.actp_claim_task(text, text, text, text, double precision) from public, anon, authenticated;
grant execute on function public.actp_claim_task(text, text, text, text, double precision) to service_role;
revoke all on function public.actp_touch_worker(text, text, jsonb, double precision) from public, anon, authenticated;
grant execute on function public.actp_touch_worker(text, text, jsonb, double precision) to service_role;
revoke all on function public.actp_finish_run(text, text, text) from public, anon, authenticated;
grant execute on function public.actp_finish_run(text, text, text) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

-- What an operator has said lasts: who paused a routine, who changed its time, who asked for a
-- restart, and what came of that.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

alter table public.actp_agent_registry
    add column if not exists restart_asked_at timestamptz,
    add column if not exists restart_asked_by text,
    add column if not exists restart_answered_at timestamptz,
    add column if not exists restart_answer text,
    add column if not exists restart_answered_by text;

alter table public.actp_routine_times add column if not exists changed_by text;

create table if not exists public.actp_routine_pauses (
    job_name text primary key,
    paused_by text not null,
    paused_at timestamptz not null
);
alter table public.actp_routine_pauses enable row level security;
revoke all on table public.actp_routine_pauses from public, anon, authenticated;
grant select, insert, update, delete on table public.actp_routine_pauses to service_role;

create or replace function public.actp_claim_fire(
    p_job_name text, p_scheduled_at timestamptz, p_instance text
) returns boolean language plpgsql set search_path = '' as $$
begin
    insert into public.actp_job_runs (job_name, scheduled_at, worker_id, instance, claimed_at)
    select p_job_name, p_scheduled_at, public.actp_worker_of(p_instance), p_instance, now()
    where not exists (select from public.actp_routine_pauses where job_name = p_job_name)
    on conflict (job_name, scheduled_at) do nothing;
    return exists (
        select from public.actp_job_runs
        where job_name = p_job_name and scheduled_at = p_scheduled_at
            and instance = p_instance
            and (finished_at is null or outcome = 'interrupted')
    );
end
$$;

create or replace function public.actp_ask_for_restart(p_agent_id text, p_value boolean, p_by text)
returns boolean language sql set search_path = '' as $$
    with changed as (
        update public.actp_agent_registry set
            needs_restart = p_value, restart_token = null,
            restart_asked_at = case when p_value then case
                when restart_answered_at is null and restart_asked_by is not distinct from p_by
                    and restart_asked_at > now() - interval '1 minute'
                then restart_asked_at else now() end end,
            restart_asked_by = case when p_value then p_by end,
            restart_answered_at = null, restart_answer = null, restart_answered_by = null
        where agent_id = p_agent_id
        returning 1
    )
    select exists (select from changed)
$$;

create or replace function public.actp_note_restart(p_agent_id text, p_by text)
returns void language sql set search_path = '' as $$
    update public.actp_agent_registry set
        restart_asked_at = case
            when restart_answered_at is null and restart_asked_by is not distinct from p_by
                and restart_asked_at > now() - interval '1 minute'
            then restart_asked_at else now() end,
        restart_asked_by = p_by,
        restart_answered_at = null, restart_answer = null, restart_answered_by = null
    where agent_id = p_agent_id
$$;

create or replace function public.actp_answer_restart(
    p_agent_id text, p_worker_id text, p_answer text
) returns void language sql set search_path = '' as $$
    update public.actp_agent_registry set
        restart_answered_at = now(), restart_answer = p_answer, restart_answered_by = p_worker_id
    where agent_id = p_agent_id and restart_asked_at is not null and restart_answered_at is null
$$;

create or replace function public.actp_change_routine_time(
    p_job_name text, p_cron text, p_instead_of text, p_by text
) returns void language plpgsql set search_path = '' as $$
begin
    if p_cron is null then
        delete from public.actp_routine_times where job_name = p_job_name;
    else
        insert into public.actp_routine_times as t
            (job_name, cron, instead_of, changed_at, changed_by)
        values (p_job_name, p_cron, p_instead_of, now(), p_by)
        on conflict (job_name) do update set
            cron = excluded.cron, instead_of = excluded.instead_of,
            changed_at = excluded.changed_at, changed_by = excluded.changed_by
        where (t.cron, t.instead_of) is distinct from (excluded.cron, excluded.instead_of);
    end if;
end
$$;

create or replace function public.actp_routine_times() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.job_name), '[]')
    from public.actp_routine_times t
$$;

create or replace function public.actp_set_routine_paused(p_job_name text, p_by text)
returns void language plpgsql set search_path = '' as $$
begin
    if p_by is null then
        delete from public.actp_routine_pauses where job_name = p_job_name;
    else
        insert into public.actp_routine_pauses (job_name, paused_by, paused_at)
        values (p_job_name, p_by, now())
        on conflict (job_name) do nothing;
    end if;
end
$$;

create or replace function public.actp_routine_pauses() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(p) order by p.job_name), '[]')
    from public.actp_routine_pauses p
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000011
$$;

revoke all on function public.actp_claim_fire(text, timestamp with time zone, text) from public, anon, authenticated;
grant execute on function public.actp_claim_fire(text, timestamp with time zone, text) to service_role;
revoke all on function public.actp_ask_for_restart(text, boolean, text) from public, anon, authenticated;
grant execute on function public.actp_ask_for_restart(text, boolean, text) to service_role;
revoke all on function public.actp_note_restart(text, text) from public, anon, authenticated;
grant execute on function public.actp_note_restart(text, text) to service_role;
revoke all on function public.actp_answer_restart(text, text, text) from public, anon, authenticated;
grant execute on function public.actp_answer_restart(text, text, text) to service_role;
revoke all on function public.actp_change_routine_time(text, text, text, text) from public, anon, authenticated;
grant execute on function public.actp_change_routine_time(text, text, text, text) to service_role;
revoke all on function public.actp_routine_times() from public, anon, authenticated;
grant execute on function public.actp_routine_times() to service_role;
revoke all on function public.actp_set_routine_paused(text, text) from public, anon, authenticated;
grant execute on function public.actp_set_routine_paused(text, text) to service_role;
revoke all on function public.actp_routine_pauses() from public, anon, authenticated;
grant execute on function public.actp_routine_pauses() to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

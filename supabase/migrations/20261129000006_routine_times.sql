-- When a routine runs in place of what is configured, as it was changed on the page.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

create table if not exists public.actp_routine_times (
    job_name text primary key,
    cron text not null,
    instead_of text not null,
    changed_at timestamptz not null
);
alter table public.actp_routine_times enable row level security;
revoke all on table public.actp_routine_times from public, anon, authenticated;
grant select, insert, update, delete on table public.actp_routine_times to service_role;

create or replace function public.actp_set_routine_time(
    p_job_name text, p_cron text, p_instead_of text
) returns void language plpgsql set search_path = '' as $$
begin
    if p_cron is null then
        delete from public.actp_routine_times where job_name = p_job_name;
    else
        insert into public.actp_routine_times (job_name, cron, instead_of, changed_at)
        values (p_job_name, p_cron, p_instead_of, now())
        on conflict (job_name) do update set
            cron = excluded.cron, instead_of = excluded.instead_of,
            changed_at = excluded.changed_at;
    end if;
end
$$;

create or replace function public.actp_routine_times() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.job_name), '[]') from (
        select job_name, cron, instead_of from public.actp_routine_times
    ) t
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000006
$$;

revoke all on function public.actp_set_routine_time(text, text, text) from public, anon, authenticated;
grant execute on function public.actp_set_routine_time(text, text, text) to service_role;
revoke all on function public.actp_routine_times() from public, anon, authenticated;
grant execute on function public.actp_routine_times() to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

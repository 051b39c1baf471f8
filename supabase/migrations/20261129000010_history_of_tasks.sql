-- History of tasks.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

-- Since when a task waits for a worker.
alter table public.actp_agent_tasks add column if not exists ready_at timestamptz;

create table if not exists public.actp_task_history (
    agent_type text not null,
    quarter timestamptz not null,
    shard integer not null default 0,
    succeeded bigint not null default 0,
    failed bigint not null default 0,
    cancelled bigint not null default 0,
    begun bigint not null default 0,
    waited double precision not null default 0,
    primary key (quarter, agent_type, shard)
);

-- Only the service role gets in, as to the other tables.
alter table public.actp_task_history enable row level security;
revoke all on table public.actp_task_history from public, anon, authenticated;
grant select, insert, update, delete on table public.actp_task_history to service_role;

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

create or replace function public.actp_quarter(p_moment timestamptz)
returns timestamptz language sql immutable set search_path = '' as $$
    select to_timestamp(floor(extract(epoch from p_moment) / 900) * 900)
$$;

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

create or replace trigger actp_task_ready_insert before insert on public.actp_agent_tasks
    for each row when (new.status = 'queued') execute function public.actp_ready_task();
create or replace trigger actp_task_ready_update before update of status on public.actp_agent_tasks
    for each row when (new.status = 'queued' and old.status <> 'queued')
    execute function public.actp_ready_task();

-- Once, for tasks that were over before: what was deleted is not known any more.
insert into public.actp_task_history (agent_type, quarter, succeeded, failed, cancelled)
select agent_type, public.actp_quarter(finished_at), count(*) filter (where status = 'succeeded'),
    count(*) filter (where status = 'failed'), count(*) filter (where status = 'cancelled')
from public.actp_agent_tasks
where finished_at is not null and status in ('succeeded', 'failed', 'cancelled')
    and not exists (select from public.actp_task_history)
group by 1, 2;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000010
$$;

revoke all on function public.actp_sum_tasks() from public, anon, authenticated;
grant execute on function public.actp_sum_tasks() to service_role;
revoke all on function public.actp_add_history(jsonb) from public, anon, authenticated;
grant execute on function public.actp_add_history(jsonb) to service_role;
revoke all on function public.actp_quarter(timestamp with time zone) from public, anon, authenticated;
grant execute on function public.actp_quarter(timestamp with time zone) to service_role;
revoke all on function public.actp_ready_task() from public, anon, authenticated;
grant execute on function public.actp_ready_task() to service_role;
revoke all on function public.actp_task_history(jsonb) from public, anon, authenticated;
grant execute on function public.actp_task_history(jsonb) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

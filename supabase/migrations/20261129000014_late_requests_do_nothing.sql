-- Late requests do nothing: a copy of a claim or a reservation that arrives when its repeat was answered.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

-- Which claims and reservations were made, for as long as copies of them may be on their way.
create table if not exists public.actp_requests (key text primary key);
alter table public.actp_requests
    add column if not exists done_at timestamptz not null default now();

create index if not exists actp_requests_by_time on public.actp_requests (done_at);

-- Only the service role gets in, as to the other tables.
alter table public.actp_requests enable row level security;
revoke all on table public.actp_requests from public, anon, authenticated;
grant select, insert, update, delete on table public.actp_requests to service_role;

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
            'select ctid from public.%1$I o where %2$I < $1%3$s order by %2$I limit $2'
            ' for update skip locked))',
            case p_what
                when 'turns' then 'actp_task_turns'
                when 'runs' then 'actp_agent_runs'
                when 'tool_calls' then 'actp_tool_call_log'
                when 'costs' then 'anthropic_cost_log'
                when 'effects' then 'actp_effects'
                when 'approvals' then 'actp_approvals'
                when 'workers' then 'actp_workers'
                when 'history' then 'actp_task_history'
                when 'requests' then 'actp_requests'
            end,
            case
                when p_what in ('turns', 'costs') then 'created_at'
                when p_what = 'runs' then 'finished_at'
                when p_what = 'tool_calls' then 'called_at'
                when p_what = 'effects' then 'began_at'
                when p_what = 'approvals' then 'decided_at'
                when p_what = 'history' then 'quarter'
                when p_what = 'requests' then 'done_at'
                else 'ended_at'
            end,
            case when p_what in ('turns', 'effects', 'approvals') then
                -- A task may wait for a person for longer than anything is kept.
                ' and not exists (select from public.actp_agent_tasks t where t.id = o.task_id'
                ' and t.status in (''queued'', ''running'', ''waiting''))'
            end
        ) using before, greatest(p_limit, 0);
    end if;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

create or replace function public.actp_reserve(
    p_call jsonb, p_since timestamptz, p_limits jsonb, p_lifetime double precision
) returns jsonb language plpgsql set search_path = '' as $$
declare
    wanted record;
    bound record;
    spent double precision;
    held double precision;
begin
    select * into wanted from jsonb_to_record(p_call) as c (
        id text, agent_id text, run_id text, task_id text, model text, amount_usd double precision
    );
    -- One at a time, for all agents where they share a limit and else for one; each statement after
    -- it sees what the one before committed. The second lock is also that of older daemons.
    if p_limits ->> 'total' is not null then
        perform pg_advisory_xact_lock(hashtextextended('actp_budget', 0));
    end if;
    perform pg_advisory_xact_lock(hashtextextended('actp_budget ' || wanted.agent_id, 0));
    perform public.actp_book_lost(null);
    -- Reserved once: a copy of this request may arrive when its call is over, and the money would be
    -- held, and booked at last, for a call that is none.
    if exists (select from public.actp_requests where key = 'reserve ' || wanted.id)
        or exists (select from public.actp_budget_reservations where id = wanted.id)
    then
        return '{}';
    end if;
    for bound in
        select * from (values
            ('task', (p_limits ->> 'task')::double precision),
            ('agent', (p_limits ->> 'agent')::double precision),
            ('total', (p_limits ->> 'total')::double precision)
        ) as bounds (scope, usd)
        where usd is not null
    loop
        select coalesce(sum(cost_usd), 0) into spent from public.anthropic_cost_log
        where case bound.scope
            when 'task' then task_id = wanted.task_id
            when 'agent' then agent_id = wanted.agent_id and created_at >= p_since
            else created_at >= p_since
        end;
        select coalesce(sum(amount_usd), 0) into held from public.actp_budget_reservations
        where case bound.scope
            when 'task' then task_id = wanted.task_id
            when 'agent' then agent_id = wanted.agent_id
            else true
        end;
        -- The tolerance is for sums of floats: three tenths are not three times a tenth.
        if spent + held + wanted.amount_usd > bound.usd + 1e-9 then
            return jsonb_build_object('over', bound.scope, 'spent', spent, 'held', held);
        end if;
    end loop;
    insert into public.actp_budget_reservations
        (id, agent_id, run_id, task_id, model, amount_usd, created_at, expires_at)
    values (wanted.id, wanted.agent_id, wanted.run_id, wanted.task_id, wanted.model,
        wanted.amount_usd, now(), now() + make_interval(secs => p_lifetime));
    insert into public.actp_requests (key) values ('reserve ' || wanted.id);
    return '{}';
end
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

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000014
$$;

revoke all on function public.actp_forget_old(text, double precision, integer) from public, anon, authenticated;
grant execute on function public.actp_forget_old(text, double precision, integer) to service_role;
revoke all on function public.actp_reserve(jsonb, timestamp with time zone, jsonb, double precision) from public, anon, authenticated;
grant execute on function public.actp_reserve(jsonb, timestamp with time zone, jsonb, double precision) to service_role;
revoke all on function public.actp_claim_task(text, text, text, text, double precision) from public, anon, authenticated;
grant execute on function public.actp_claim_task(text, text, text, text, double precision) to service_role;
revoke all on function public.actp_settle_unreadable(text, text, text) from public, anon, authenticated;
grant execute on function public.actp_settle_unreadable(text, text, text) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

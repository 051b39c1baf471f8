-- Conversations that go on behind their last recorded step, every call of the model booked, and
-- runs of routines as tasks.
--
-- Daemons of the release before may be at work on the same database: what they call stays, and the
-- new columns may be null or have a default.

alter table public.actp_agent_tasks add column if not exists routine text;
alter table public.actp_task_turns add column if not exists meta jsonb;
alter table public.anthropic_cost_log
    add column if not exists estimated boolean not null default false;
alter table public.actp_budget_reservations
    add column if not exists run_id text,
    add column if not exists task_id text,
    add column if not exists model text;

create index if not exists anthropic_cost_log_by_task
    on public.anthropic_cost_log (task_id);

create or replace function public.actp_record_step(p_turn jsonb, p_token text)
returns boolean language plpgsql set search_path = '' as $$
begin
    insert into public.actp_task_turns
        (id, task_id, agent_id, run_id, step, role, content, meta, created_at)
    select id, task_id, agent_id, run_id, step, role, content, meta, now()
    from jsonb_to_record(p_turn) as t (
        id text, task_id text, agent_id text, run_id text, step integer, role text, content jsonb,
        meta jsonb
    )
    where p_token is null or exists (
        select from public.actp_agent_tasks k
        where k.id = t.task_id and k.lease_token = p_token and k.status = 'running'
    )
    on conflict (id) do nothing;
    return exists (select from public.actp_task_turns where id = p_turn ->> 'id');
end
$$;

create or replace function public.actp_record_answer(
    p_turn jsonb, p_call jsonb, p_effect text, p_token text
) returns boolean language plpgsql set search_path = '' as $$
begin
    perform public.actp_record_tool_call(p_call);
    perform public.actp_finish_effect(p_effect, p_turn -> 'content');
    return public.actp_record_step(p_turn, p_token);
end
$$;

create or replace function public.actp_record_cost(p_entry jsonb, p_reservation text)
returns void language sql set search_path = '' as $$
    insert into public.anthropic_cost_log as known
        (id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cache_read_tokens,
         cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, priced, estimated, request_id,
         created_at)
    select id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cache_read_tokens,
        cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, priced, coalesce(estimated, false),
        request_id, now()
    from jsonb_to_record(p_entry) as e (
        id text, agent_id text, run_id text, task_id text, model text, input_tokens bigint,
        output_tokens bigint, cache_read_tokens bigint, cache_write_5m_tokens bigint,
        cache_write_1h_tokens bigint, cost_usd double precision, priced boolean, estimated boolean,
        request_id text
    )
    on conflict (id) do update set
        model = excluded.model, input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens, cache_read_tokens = excluded.cache_read_tokens,
        cache_write_5m_tokens = excluded.cache_write_5m_tokens,
        cache_write_1h_tokens = excluded.cache_write_1h_tokens, cost_usd = excluded.cost_usd,
        priced = excluded.priced, estimated = false, request_id = excluded.request_id
    where known.estimated and not excluded.estimated;
    select public.actp_release_budget(p_reservation);
$$;

-- Books open reservations at what their calls may have cost: those of a task, or without one those
-- whose time is over.
create or replace function public.actp_book_lost(p_task_id text)
returns void language sql set search_path = '' as $$
    with lost as (
        delete from public.actp_budget_reservations where id in (
            select id from public.actp_budget_reservations
            where case when p_task_id is null then expires_at < now() else task_id = p_task_id end
            order by id
            for update skip locked
        )
        returning *
    )
    insert into public.anthropic_cost_log
        (id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cost_usd, estimated,
         created_at)
    select id, agent_id, run_id, task_id, coalesce(model, 'unknown'), 0, 0, amount_usd, true,
        created_at
    from lost
    on conflict (id) do nothing
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
    if exists (select from public.actp_budget_reservations where id = wanted.id) then
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
    return '{}';
end
$$;

create or replace function public.actp_settle_task(p_task_id text)
returns jsonb language plpgsql set search_path = '' as $$
begin
    perform public.actp_book_lost(p_task_id);
    return (
        select jsonb_build_object(
            'calls', count(*),
            'input_tokens', coalesce(sum(input_tokens), 0),
            'output_tokens', coalesce(sum(output_tokens), 0),
            'cache_read_tokens', coalesce(sum(cache_read_tokens), 0),
            'cache_write_tokens',
                coalesce(sum(cache_write_5m_tokens + cache_write_1h_tokens), 0),
            'cost_usd', coalesce(sum(cost_usd), 0),
            'estimated_usd', coalesce(sum(cost_usd) filter (where estimated), 0)
        )
        from public.anthropic_cost_log where task_id = p_task_id
    );
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
        return jsonb_build_object('state', 'new', 'result', null);
    end if;
    select * into known from public.actp_effects where key = p_key;
    if known.finished_at is not null then
        return jsonb_build_object('state', 'done', 'result', known.result);
    end if;
    return jsonb_build_object(
        'state', case when known.token = p_token then 'new' else 'unknown' end, 'result', null
    );
end
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000005
$$;

revoke all on function public.actp_record_step(jsonb, text) from public, anon, authenticated;
grant execute on function public.actp_record_step(jsonb, text) to service_role;
revoke all on function public.actp_record_answer(jsonb, jsonb, text, text) from public, anon, authenticated;
grant execute on function public.actp_record_answer(jsonb, jsonb, text, text) to service_role;
revoke all on function public.actp_record_cost(jsonb, text) from public, anon, authenticated;
grant execute on function public.actp_record_cost(jsonb, text) to service_role;
revoke all on function public.actp_book_lost(text) from public, anon, authenticated;
grant execute on function public.actp_book_lost(text) to service_role;
revoke all on function public.actp_reserve(jsonb, timestamp with time zone, jsonb, double precision) from public, anon, authenticated;
grant execute on function public.actp_reserve(jsonb, timestamp with time zone, jsonb, double precision) to service_role;
revoke all on function public.actp_settle_task(text) from public, anon, authenticated;
grant execute on function public.actp_settle_task(text) to service_role;
revoke all on function public.actp_begin_task(text, text, text, jsonb, text, text, text, text, double precision) from public, anon, authenticated;
grant execute on function public.actp_begin_task(text, text, text, jsonb, text, text, text, text, double precision) to service_role;
revoke all on function public.actp_begin_effect(text, text, text, text) from public, anon, authenticated;
grant execute on function public.actp_begin_effect(text, text, text, text) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

notify pgrst, 'reload schema';

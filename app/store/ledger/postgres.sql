-- Costs and budgets. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

create or replace function public.actp_release_budget(p_id text)
returns void language sql set search_path = '' as $$
    delete from public.actp_budget_reservations where id = p_id
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

-- For daemons of the release before: actp_reserve has its place now.
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

-- Turns, calls of tools, effects, and fires of the scheduler. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

-- For daemons of the release before: `record_turn` is actp_record_step now.
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

create or replace function public.actp_finish_effect(p_key text, p_result jsonb)
returns void language sql set search_path = '' as $$
    update public.actp_effects set result = p_result, finished_at = now()
    where key = p_key and finished_at is null
$$;

create or replace function public.actp_drop_effect(p_key text)
returns void language sql set search_path = '' as $$
    delete from public.actp_effects where key = p_key and finished_at is null
$$;

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

create or replace function public.actp_finish_fire(
    p_job_name text, p_scheduled_at timestamptz, p_outcome text, p_error text
) returns void language sql set search_path = '' as $$
    update public.actp_job_runs set outcome = p_outcome, error = p_error, finished_at = now()
    where job_name = p_job_name and scheduled_at = p_scheduled_at
        and (finished_at is null or outcome = 'interrupted')
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

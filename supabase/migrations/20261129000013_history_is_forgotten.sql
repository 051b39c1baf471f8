-- History is forgotten.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

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
            end,
            case
                when p_what in ('turns', 'costs') then 'created_at'
                when p_what = 'runs' then 'finished_at'
                when p_what = 'tool_calls' then 'called_at'
                when p_what = 'effects' then 'began_at'
                when p_what = 'approvals' then 'decided_at'
                when p_what = 'history' then 'quarter'
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

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000013
$$;

revoke all on function public.actp_forget_old(text, double precision, integer) from public, anon, authenticated;
grant execute on function public.actp_forget_old(text, double precision, integer) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

-- Rows made by hand: keys that are made, words and values that can be read; and what the start looks
-- for in tables that were there before.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

-- A key that a row made by hand leaves out is made. The first file cannot do it, because there the
-- column is made with its table, where it has no default.
do $$
declare
    keyed record;
begin
    for keyed in
        select c.relname as name
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attname = 'id'
            and not a.atthasdef and a.attidentity = '' and a.attgenerated = ''
            and format_type(a.atttypid, null) in ('text', 'character varying')
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and c.relname in (
                'actp_agent_tasks', 'actp_agent_runs', 'actp_task_turns', 'actp_tool_call_log',
                'anthropic_cost_log', 'actp_budget_reservations', 'actp_engagement_actions',
                'actp_viral_templates', 'actp_deal_log', 'actp_revenue_goals',
                'actp_weekly_snapshots'
            )
    loop
        execute format('alter table public.%I alter column id set default gen_random_uuid()::text',
            keyed.name);
    end loop;
end
$$;

-- No answer with such a task in it could be read: JSON deeper than a reader goes, a number that is
-- too large, a time that is none. Tasks that have it already are settled as failed with the reason.
-- Where a table that was there before has tasks in states of another program's, those stay, and
-- so does what is to come.
do $$
declare
    deep constant jsonpath = 'strict $.**{100}';
    large constant jsonpath = '$.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))';
    checked record;
begin
    update public.actp_agent_tasks t set
        status = 'failed',
        error = 'cannot be read: ' || concat_ws(', ',
            case when context @? deep or context @? large then 'context' end,
            case when result @? deep or result @? large then 'result' end,
            case when not isfinite(created_at) then 'created_at ' || created_at end,
            case when not isfinite(started_at) then 'started_at ' || started_at end,
            case when not isfinite(finished_at) then 'finished_at ' || finished_at end
        ),
        context = case when context @? deep or context @? large then '{}' else context end,
        result = case when result @? deep or result @? large then null else result end,
        created_at = case when isfinite(created_at) then created_at else now() end,
        started_at = case when isfinite(started_at) then started_at end,
        finished_at = case when isfinite(finished_at) then finished_at else now() end
    where context @? deep or context @? large or result @? deep or result @? large
        or not isfinite(created_at) or not isfinite(started_at) or not isfinite(finished_at);
    for checked in select * from (values
        ('actp_agent_tasks_status_known',
            $check$ status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
            $check$),
        ('actp_agent_tasks_times_finite',
            $check$ isfinite(created_at) and isfinite(coalesce(started_at, created_at))
                and isfinite(coalesce(finished_at, created_at)) $check$),
        ('actp_agent_tasks_json_readable',
            $check$ not (
                context @? 'strict $.**{100}' or coalesce(result @? 'strict $.**{100}', false)
                or context @? '$.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'
                or coalesce(result
                    @? '$.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))', false)
            ) $check$)
    ) as checks (name, condition) loop
        if not exists (
            select from pg_constraint
            where conrelid = 'public.actp_agent_tasks'::regclass and conname = checked.name
        ) then
            begin
                execute format('alter table public.actp_agent_tasks add constraint %I check (%s)',
                    checked.name, checked.condition);
            exception when check_violation then
                raise warning 'public.actp_agent_tasks has rows that % would refuse, so it is left '
                    'out: a mistyped status is then a task that nothing ever sees', checked.name;
            end;
        end if;
    end loop;
end
$$;

create or replace function public.actp_obstacles() returns jsonb
language plpgsql stable set search_path = '' as $$
declare
    found record;
    refused boolean;
    obstacles jsonb = '[]';
begin
    for found in
        select c.relname as table_name, a.attname as column_name
        from pg_catalog.pg_class c
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0
            and not a.attisdropped and a.attnotnull and not a.atthasdef
            and a.attidentity = '' and a.attgenerated = ''
        join (values
            ('actp_workers', 'instance'),
            ('actp_leases', 'name instance worker_id expires_at'),
            ('actp_agent_registry', 'agent_id class_name model status'),
            ('actp_agent_runs', 'id agent_id worker_id instance started_at'),
            ('actp_agent_tasks',
                'id agent_type goal context priority status max_attempts created_at'),
            ('actp_agent_memory', 'agent_id key value created_at updated_at'),
            ('actp_task_turns', 'id task_id agent_id step role content created_at'),
            ('actp_tool_call_log', 'id agent_id tool arguments duration called_at'),
            ('anthropic_cost_log', 'id agent_id model input_tokens output_tokens'
                || ' cache_read_tokens cache_write_5m_tokens cache_write_1h_tokens cost_usd'
                || ' priced created_at'),
            ('actp_budget_reservations', 'id agent_id amount_usd created_at expires_at'),
            ('actp_effects', 'key agent_id began_at'),
            ('actp_job_runs', 'job_name scheduled_at worker_id instance claimed_at'),
            ('actp_engagement_actions', 'id'),
            ('actp_viral_templates', 'id'),
            ('actp_deal_log', 'id'),
            ('actp_revenue_goals', 'id'),
            ('actp_weekly_snapshots', 'id')
        ) as written (name, columns) on written.name = c.relname
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and not a.attname = any (string_to_array(written.columns, ' '))
        order by 1, 2
    loop
        obstacles = obstacles || jsonb_build_object(
            'table', found.table_name,
            'column', found.column_name,
            'why', 'needs a value that the worker does not give',
            'command', format('alter table public.%I alter column %I drop not null',
                found.table_name, found.column_name)
        );
    end loop;
    for found in
        select c.relname as table_name, a.attname as column_name, k.conname as name,
            pg_catalog.pg_get_expr(k.conbin, k.conrelid) as condition, known.words
        from (values
            ('actp_agent_tasks', 'status',
                array['queued', 'running', 'succeeded', 'failed', 'cancelled']),
            ('actp_agent_runs', 'outcome', array['stopped', 'crashed', 'interrupted']),
            ('actp_agent_registry', 'status', array[
                'crashed', 'backing_off', 'stopped', 'stopping', 'draining', 'restarting',
                'starting', 'running', 'standby', 'disabled'
            ])
        ) as known (name, column_name, words)
        join pg_catalog.pg_class c on c.relname = known.name
            and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = known.column_name
        join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'c'
            and k.conkey = array[a.attnum]
        order by 1, 2, 3
    loop
        execute format('select exists (select from unnest($1) as written (%I) where not (%s))',
            found.column_name, found.condition) into refused using found.words;
        if refused then
            obstacles = obstacles || jsonb_build_object(
                'table', found.table_name,
                'column', found.column_name,
                'why', format('has the check %s, which refuses what the worker writes', found.name),
                'command', format('alter table public.%I drop constraint %I',
                    found.table_name, found.name)
            );
        end if;
    end loop;
    return obstacles;
end
$$;

create or replace function public.actp_schema() returns jsonb
language sql stable set search_path = '' as $$
    select public.actp_schema_check() || jsonb_build_object(
        'version', public.actp_schema_version(),
        'functions', (
            select jsonb_agg(format('%s(%s) returns %s', p.proname,
                pg_catalog.pg_get_function_identity_arguments(p.oid),
                pg_catalog.pg_get_function_result(p.oid)))
            from pg_catalog.pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname like 'actp\_%'
        ),
        'obstacles', public.actp_obstacles()
    )
$$;

create or replace function public.actp_unreadable_tasks(
    p_within double precision, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(id order by finished_at desc, seq desc), '[]') from (
        select id, finished_at, seq from public.actp_agent_tasks
        where status = 'failed' and error like 'cannot be read: %'
            and finished_at >= now() - make_interval(secs => p_within)
        order by finished_at desc, seq desc
        limit greatest(p_limit, 0)
    ) t
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000003
$$;

revoke all on function public.actp_obstacles() from public, anon, authenticated;
grant execute on function public.actp_obstacles() to service_role;
revoke all on function public.actp_schema() from public, anon, authenticated;
grant execute on function public.actp_schema() to service_role;
revoke all on function public.actp_unreadable_tasks(double precision, integer) from public, anon, authenticated;
grant execute on function public.actp_unreadable_tasks(double precision, integer) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

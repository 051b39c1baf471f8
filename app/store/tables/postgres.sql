-- What is there. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

-- Which tables with which columns, and which functions, are there.
create or replace function public.actp_schema_check() returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'tables', coalesce((
            select jsonb_object_agg(found.name, found.columns) from (
                select c.relname as name, jsonb_agg(a.attname order by a.attnum) as columns
                from pg_catalog.pg_class c
                join pg_catalog.pg_attribute a
                    on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
                    and (c.relname like 'actp\_%' or c.relname = 'anthropic_cost_log')
                group by c.relname
            ) found
        ), '{}'),
        'functions', (
            select jsonb_agg(distinct p.proname) from pg_catalog.pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname like 'actp\_%'
        )
    )
$$;

-- What in tables that were there before would refuse the worker's rows: a column of another's that
-- needs a value, or a check that does not know the worker's words. Each with what helps.
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
            ('actp_approvals', 'id task_id agent_id tool arguments status created_at'),
            ('actp_reviews', 'id table_name row_id verdict before after reviewed_by reviewed_at'),
            ('actp_job_runs', 'job_name scheduled_at worker_id instance claimed_at'),
            ('actp_engagement_actions', 'id'),
            ('actp_viral_templates', 'id'),
            ('actp_deal_log', 'id'),
            ('actp_revenue_goals', 'id'),
            ('actp_weekly_snapshots', 'id'),
            ('actp_reports', 'id')
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
                array['queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled']),
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
    for found in
        select c.relname as table_name, string_agg(needed.privilege, ', ' order by needed.place)
            as privileges
        from pg_catalog.pg_class c
        cross join (values (1, 'select'), (2, 'insert'), (3, 'update'), (4, 'delete'))
            as needed (place, privilege)
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and c.relname in (
                'actp_workers', 'actp_leases', 'actp_agent_registry', 'actp_agent_runs',
                'actp_agent_tasks', 'actp_task_totals', 'actp_agent_memory', 'actp_task_turns',
                'actp_tool_call_log', 'anthropic_cost_log', 'actp_cost_days',
                'actp_budget_reservations', 'actp_effects', 'actp_approvals', 'actp_reviews',
                'actp_job_runs', 'actp_engagement_actions', 'actp_viral_templates',
                'actp_deal_log', 'actp_revenue_goals', 'actp_weekly_snapshots', 'actp_reports'
            )
            and not pg_catalog.has_table_privilege(c.oid, needed.privilege)
        group by 1
        order by 1
    loop
        obstacles = obstacles || jsonb_build_object(
            'table', found.table_name,
            'column', '',
            'why', format('denies the worker to %s', found.privileges),
            'command', format('grant select, insert, update, delete on public.%I to %I',
                found.table_name, current_user)
        );
    end loop;
    return obstacles;
end
$$;

-- All of it for the look at the start: the version, the columns of the tables, the functions as
-- who calls them must know them, and what stands in the way.
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

-- Only the service role gets in: row-level security without a policy for anybody, and nothing
-- granted. Supabase's default privileges give all of it to anon and authenticated, and PostgreSQL
-- gives the use of functions to everyone.
--
-- By name, because a project may have tables and functions of its own that begin with "actp_".

do $$
declare
    tables constant text[] = array[
        'actp_workers', 'actp_leases', 'actp_agent_registry', 'actp_agent_runs',
        'actp_agent_tasks', 'actp_agent_memory', 'actp_task_turns', 'actp_tool_call_log',
        'anthropic_cost_log', 'actp_budget_reservations', 'actp_effects', 'actp_job_runs',
        'actp_engagement_actions', 'actp_viral_templates', 'actp_deal_log', 'actp_revenue_goals',
        'actp_weekly_snapshots'
    ];
    functions constant text[] = array[
        'actp_add_task', 'actp_agents', 'actp_begin_effect', 'actp_cancel_task', 'actp_claim_fire',
        'actp_claim_task', 'actp_costs', 'actp_count_tasks', 'actp_crash_ages', 'actp_drop_effect',
        'actp_drop_lease', 'actp_finish_effect', 'actp_finish_fire', 'actp_finish_run',
        'actp_finish_task', 'actp_forget', 'actp_forget_turns', 'actp_forget_worker',
        'actp_hand_back', 'actp_hold_lease', 'actp_live_workers', 'actp_now', 'actp_oldest_queued',
        'actp_recall', 'actp_record_cost', 'actp_record_heartbeat', 'actp_record_tool_call',
        'actp_record_turn', 'actp_register_agents', 'actp_release_budget', 'actp_release_task',
        'actp_remember', 'actp_renew_task', 'actp_reserve_budget', 'actp_retry_task',
        'actp_schema_check', 'actp_set_needs_restart', 'actp_set_status', 'actp_start_run',
        'actp_take_restart_requests', 'actp_tool_stats', 'actp_touch_worker', 'actp_turns',
        'actp_worker_of'
    ];
    found record;
begin
    for found in
        select c.oid::regclass as name from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and c.relname = any (tables)
    loop
        execute format('alter table %s enable row level security', found.name);
        execute format('revoke all on table %s from public, anon, authenticated', found.name);
        execute format('grant select, insert, update, delete on table %s to service_role',
            found.name);
    end loop;
    for found in
        select c.oid::regclass as name from pg_class c
        join pg_depend d on d.objid = c.oid and d.classid = 'pg_class'::regclass
            and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
        join pg_class t on t.oid = d.refobjid
        where c.relkind = 'S' and t.relnamespace = 'public'::regnamespace
            and t.relname = any (tables)
    loop
        execute format('revoke all on sequence %s from public, anon, authenticated', found.name);
        execute format('grant usage on sequence %s to service_role', found.name);
    end loop;
    for found in
        select p.oid::regprocedure as name from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proname = any (functions)
    loop
        execute format('revoke all on function %s from public, anon, authenticated', found.name);
        execute format('grant execute on function %s to service_role', found.name);
    end loop;
end
$$;

-- Supabase grants it, and a schema that somebody dropped and made anew has lost it.
grant usage on schema public to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

-- Search and pages of tasks.
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.

create or replace function public.actp_find_tasks(
    p_status text, p_agent_type text, p_limit integer, p_search text, p_since timestamptz,
    p_until timestamptz, p_before text
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.seq desc), '[]') from (
        select * from public.actp_agent_tasks
        where (p_status is null or status = p_status)
            and (p_agent_type is null or agent_type = p_agent_type)
            and (p_search is null
                or goal ~* ('***=' || p_search) or error ~* ('***=' || p_search)
                or agent_type = p_search or id = p_search
                or (length(p_search) >= 6 and starts_with(id, p_search)))
            and (p_since is null or created_at >= p_since)
            and (p_until is null or created_at < p_until)
            and (p_before is null
                or seq < (select seq from public.actp_agent_tasks where id = p_before))
            and status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
        order by seq desc
        limit greatest(p_limit, 0)
    ) t
$$;

create or replace function public.actp_count_matching(
    p_which jsonb, p_among jsonb, p_limit integer
) returns integer language sql stable set search_path = '' as $$
    select count(*)::integer from (
        select from public.actp_agent_tasks
        where p_among ? status
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
            and (p_which ->> 'search' is null
                or goal ~* ('***=' || (p_which ->> 'search'))
                or error ~* ('***=' || (p_which ->> 'search'))
                or agent_type = p_which ->> 'search' or id = p_which ->> 'search'
                or (length(p_which ->> 'search') >= 6
                    and starts_with(id, p_which ->> 'search')))
            and (p_which ->> 'since' is null
                or created_at >= (p_which ->> 'since')::timestamptz)
            and (p_which ->> 'until' is null or created_at < (p_which ->> 'until')::timestamptz)
        limit greatest(p_limit, 0)
    ) found
$$;

create or replace function public.actp_cancel_tasks(p_which jsonb, p_limit integer)
returns integer language plpgsql set search_path = '' as $$
declare
    found_task record;
    concerned integer = 0;
begin
    for found_task in
        select id from public.actp_agent_tasks
        where status in ('queued', 'running', 'waiting')
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
            and (p_which ->> 'search' is null
                or goal ~* ('***=' || (p_which ->> 'search'))
                or error ~* ('***=' || (p_which ->> 'search'))
                or agent_type = p_which ->> 'search' or id = p_which ->> 'search'
                or (length(p_which ->> 'search') >= 6
                    and starts_with(id, p_which ->> 'search')))
            and (p_which ->> 'since' is null
                or created_at >= (p_which ->> 'since')::timestamptz)
            and (p_which ->> 'until' is null or created_at < (p_which ->> 'until')::timestamptz)
        order by seq
        limit greatest(p_limit, 0)
    loop
        perform public.actp_cancel_task(found_task.id);
        concerned = concerned + 1;
    end loop;
    return concerned;
end
$$;

create or replace function public.actp_retry_tasks(p_which jsonb, p_limit integer)
returns integer language plpgsql set search_path = '' as $$
declare
    found_task record;
    queued integer = 0;
begin
    for found_task in
        select id from public.actp_agent_tasks
        where status in ('failed', 'cancelled')
            and (p_which ->> 'agent_type' is null or agent_type = p_which ->> 'agent_type')
            and (p_which ->> 'status' is null or status = p_which ->> 'status')
            and (p_which ->> 'text' is null or goal ~* ('***=' || (p_which ->> 'text')))
            and (p_which ->> 'search' is null
                or goal ~* ('***=' || (p_which ->> 'search'))
                or error ~* ('***=' || (p_which ->> 'search'))
                or agent_type = p_which ->> 'search' or id = p_which ->> 'search'
                or (length(p_which ->> 'search') >= 6
                    and starts_with(id, p_which ->> 'search')))
            and (p_which ->> 'since' is null
                or created_at >= (p_which ->> 'since')::timestamptz)
            and (p_which ->> 'until' is null or created_at < (p_which ->> 'until')::timestamptz)
        order by seq
        limit greatest(p_limit, 0)
    loop
        if (select status = 'queued' from public.actp_retry_task(found_task.id)) then
            queued = queued + 1;
        end if;
    end loop;
    return queued;
end
$$;

create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select 20261129000009
$$;

revoke all on function public.actp_find_tasks(text, text, integer, text, timestamp with time zone, timestamp with time zone, text) from public, anon, authenticated;
grant execute on function public.actp_find_tasks(text, text, integer, text, timestamp with time zone, timestamp with time zone, text) to service_role;
revoke all on function public.actp_count_matching(jsonb, jsonb, integer) from public, anon, authenticated;
grant execute on function public.actp_count_matching(jsonb, jsonb, integer) to service_role;
revoke all on function public.actp_cancel_tasks(jsonb, integer) from public, anon, authenticated;
grant execute on function public.actp_cancel_tasks(jsonb, integer) to service_role;
revoke all on function public.actp_retry_tasks(jsonb, integer) from public, anon, authenticated;
grant execute on function public.actp_retry_tasks(jsonb, integer) to service_role;
revoke all on function public.actp_schema_version() from public, anon, authenticated;
grant execute on function public.actp_schema_version() to service_role;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

-- What agents remember. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

create or replace function public.actp_remember(p_agent_id text, p_key text, p_value text)
returns void language sql set search_path = '' as $$
    insert into public.actp_agent_memory (agent_id, key, value, created_at, updated_at)
    values (p_agent_id, p_key, p_value, now(), now())
    on conflict (agent_id, key) do update
        set value = excluded.value, updated_at = excluded.updated_at
$$;

-- "***=" makes the rest of a pattern plain text, and "~*" takes upper and lower case alike.
create or replace function public.actp_recall(
    p_agent_id text, p_key text, p_search text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(m) order by m.updated_at desc, m.seq desc), '[]') from (
        select * from public.actp_agent_memory
        where agent_id = p_agent_id
            and (p_key is null or key = p_key)
            and (p_search is null
                or key ~* ('***=' || p_search) or value ~* ('***=' || p_search))
        order by updated_at desc, seq desc
        limit p_limit
    ) m
$$;

create or replace function public.actp_forget(p_agent_id text, p_key text)
returns boolean language sql set search_path = '' as $$
    with dropped as (
        delete from public.actp_agent_memory where agent_id = p_agent_id and key = p_key
        returning 1
    )
    select exists (select from dropped)
$$;

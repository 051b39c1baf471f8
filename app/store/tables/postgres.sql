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

-- Only the service role gets in: row-level security without a policy for anybody, and nothing
-- granted. Supabase's default privileges give all of it to anon and authenticated, and PostgreSQL
-- gives the use of functions to everyone.

do $$
declare
    found record;
begin
    for found in
        select c.oid::regclass as name from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and (c.relname like 'actp\_%' or c.relname = 'anthropic_cost_log')
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
            and (t.relname like 'actp\_%' or t.relname = 'anthropic_cost_log')
    loop
        execute format('revoke all on sequence %s from public, anon, authenticated', found.name);
        execute format('grant usage on sequence %s to service_role', found.name);
    end loop;
    for found in
        select p.oid::regprocedure as name from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proname like 'actp\_%'
    loop
        execute format('revoke all on function %s from public, anon, authenticated', found.name);
        execute format('grant execute on function %s to service_role', found.name);
    end loop;
end
$$;

-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';

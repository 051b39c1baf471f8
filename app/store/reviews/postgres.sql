-- What people have said of rows. What each verb does: contract.py. As these functions are now; what brings
-- a database there stands in supabase/migrations, whose last word on each is this.

create or replace function public.actp_review_row(
    p_review jsonb, p_shown jsonb, p_changes jsonb
) returns setof jsonb language plpgsql set search_path = '' as $$
declare
    of_table text = p_review ->> 'table_name';
    conditions text;
    assignments text;
    is_as_shown boolean;
begin
    -- The name is about to become part of a statement.
    if of_table not in (
        'actp_engagement_actions', 'actp_viral_templates', 'actp_deal_log', 'actp_revenue_goals',
        'actp_weekly_snapshots', 'actp_reports'
    ) then
        raise exception 'rows of % are not reviewed', of_table;
    end if;
    select coalesce(string_agg(format('t.%1$I is not distinct from s.%1$I', key), ' and '), 'true')
        into conditions from jsonb_object_keys(p_shown) as key;
    select coalesce(string_agg(format('%1$I = s.%1$I, ', key), ''), '')
        into assignments from jsonb_object_keys(p_changes) as key;
    -- Locked first, so that of two who decide at once the second sees what the first has done.
    execute format('select true from public.%I where id = $1 for update', of_table)
        using p_review ->> 'row_id';
    if not exists (select from public.actp_reviews where id = p_review ->> 'id') then
        execute format(
            'select true from public.%1$I t, jsonb_populate_record(null::public.%1$I, $2) s'
            ' where t.id = $1 and %2$s', of_table, conditions
        ) into is_as_shown using p_review ->> 'row_id', p_shown;
        if is_as_shown is null then
            return;
        end if;
        execute format(
            'update public.%1$I t set %2$s updated_at = now()'
            ' from jsonb_populate_record(null::public.%1$I, $2) s where t.id = $1',
            of_table, assignments
        ) using p_review ->> 'row_id', p_changes;
        insert into public.actp_reviews
            (id, table_name, row_id, verdict, comment, before, after, reviewed_by, reviewed_at)
        select r.id, r.table_name, r.row_id, r.verdict, r.comment,
            coalesce((
                select jsonb_object_agg(key, p_shown -> key) from jsonb_object_keys(p_changes) as key
            ), '{}'),
            p_changes, r.reviewed_by, now()
        from jsonb_to_record(p_review) as r (
            id text, table_name text, row_id text, verdict text, comment text, reviewed_by text
        );
    end if;
    return query select to_jsonb(r) from public.actp_reviews r where r.id = p_review ->> 'id';
end
$$;

create or replace function public.actp_reviews(
    p_table_name text, p_row_ids jsonb, p_verdict text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(r) order by r.seq desc), '[]') from (
        select * from public.actp_reviews
        where (p_table_name is null or table_name = p_table_name)
            and (p_row_ids is null or p_row_ids ? row_id)
            and (p_verdict is null or verdict = p_verdict)
        order by seq desc
        limit greatest(p_limit, 0)
    ) r
$$;

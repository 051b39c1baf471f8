-- Approvals, and tasks that wait for them. What each verb does: contract.py. As these functions are
-- now; what brings a database there stands in supabase/migrations, whose last word on each is this.

-- Who decides and who parks first lock the task, so that neither misses what the other does.

create or replace function public.actp_ask_approval(
    p_question jsonb, p_expires_in double precision
) returns jsonb language plpgsql set search_path = '' as $$
begin
    insert into public.actp_approvals
        (id, task_id, agent_id, about, tool, arguments, why, expires_at, created_at)
    select id, task_id, agent_id, about, tool, arguments, why,
        case when p_expires_in > 0 then now() + make_interval(secs => p_expires_in) end, now()
    from jsonb_to_record(p_question) as q (
        id text, task_id text, agent_id text, about text, tool text, arguments jsonb, why text
    )
    on conflict do nothing;
    return (
        select to_jsonb(a) from public.actp_approvals a
        where task_id = p_question ->> 'task_id' and about = p_question ->> 'about'
    );
end
$$;

create or replace function public.actp_park_task(p_id text, p_token text)
returns boolean language plpgsql set search_path = '' as $$
begin
    perform from public.actp_agent_tasks where id = p_id for update;
    update public.actp_agent_tasks t set
        status = case
            when t.cancel_requested then 'cancelled'
            when exists (
                select from public.actp_approvals a where a.task_id = p_id and a.status = 'waiting'
            ) then 'waiting'
            else 'queued'
        end,
        attempts = t.attempts - 1,
        finished_at = case when t.cancel_requested then now() end,
        worker_id = null,
        instance = null,
        lease_token = null,
        lease_until = null,
        settled_token = p_token
    where t.id = p_id and t.lease_token = p_token and t.status = 'running';
    return exists (
        select from public.actp_agent_tasks where id = p_id and settled_token = p_token
    );
end
$$;

create or replace function public.actp_approval(p_id text) returns setof jsonb
language sql stable set search_path = '' as $$
    select to_jsonb(a) from public.actp_approvals a where id = p_id
$$;

create or replace function public.actp_approvals(
    p_status text, p_task_id text, p_limit integer
) returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(a) order by a.seq desc), '[]') from (
        select * from public.actp_approvals
        where (p_status is null or status = p_status)
            and (p_task_id is null or task_id = p_task_id)
        order by seq desc
        limit greatest(p_limit, 0)
    ) a
$$;

create or replace function public.actp_count_waiting_approvals() returns bigint
language sql stable set search_path = '' as $$
    select count(*) from public.actp_approvals where status = 'waiting'
$$;

-- Queues a task that waits for nothing any more.
create or replace function public.actp_go_on(p_task_id text)
returns void language sql set search_path = '' as $$
    update public.actp_agent_tasks set status = 'queued'
    where id = p_task_id and status = 'waiting' and not exists (
        select from public.actp_approvals a where a.task_id = p_task_id and a.status = 'waiting'
    )
$$;

create or replace function public.actp_decide_approval(
    p_id text, p_approve boolean, p_decided_by text, p_comment text, p_arguments jsonb
) returns setof jsonb language plpgsql set search_path = '' as $$
declare
    of_task text;
begin
    select task_id into of_task from public.actp_approvals where id = p_id;
    perform public.actp_expire_approvals();
    perform from public.actp_agent_tasks where id = of_task for update;
    update public.actp_approvals a set
        status = case when p_approve then 'approved' else 'denied' end,
        comment = p_comment,
        decided_by = p_decided_by,
        decided_at = now(),
        asked = case when p_approve and p_arguments <> a.arguments then a.arguments end,
        arguments = case when p_approve then coalesce(p_arguments, a.arguments)
            else a.arguments end
    where a.id = p_id and a.status = 'waiting'
        and (a.expires_at is null or a.expires_at > now());
    perform public.actp_go_on(of_task);
    return query select to_jsonb(a) from public.actp_approvals a where a.id = p_id;
end
$$;

create or replace function public.actp_expire_approvals() returns jsonb
language plpgsql set search_path = '' as $$
declare
    overdue record;
    expired jsonb = '[]';
    task_status text;
    is_over boolean;
begin
    for overdue in
        select a.id, a.task_id from public.actp_approvals a
        left join public.actp_agent_tasks t on t.id = a.task_id
        where a.status = 'waiting' and (
            a.expires_at <= now() or t.id is null
            or t.status not in ('queued', 'running', 'waiting')
        )
        order by a.task_id
    loop
        -- Without waiting, or two who come with locks of their own could wait for each other.
        select status into task_status from public.actp_agent_tasks
        where id = overdue.task_id for update skip locked;
        if not found and exists (
            select from public.actp_agent_tasks where id = overdue.task_id
        ) then
            continue;
        end if;
        is_over = coalesce(task_status not in ('queued', 'running', 'waiting'), true);
        update public.actp_approvals a set
            status = 'expired',
            decided_at = now(),
            comment = case when is_over then 'its task was over before it was decided' end,
            about = case when not is_over then a.about end
        where a.id = overdue.id and a.status = 'waiting'
            and (is_over or a.expires_at <= now());
        if found then
            perform public.actp_go_on(overdue.task_id);
            expired = expired || (
                select to_jsonb(a) from public.actp_approvals a where a.id = overdue.id
            );
        end if;
    end loop;
    return expired;
end
$$;

create or replace function public.actp_told_approval(p_id text)
returns void language sql set search_path = '' as $$
    update public.actp_approvals set told_at = now() where id = p_id and told_at is null
$$;

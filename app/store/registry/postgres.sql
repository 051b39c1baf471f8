-- Agents, daemons, leases and runs. What each verb does: contract.py. As these functions are now; what brings a database
-- there stands in supabase/migrations, whose last word on each is this.

create or replace function public.actp_now() returns timestamptz
language sql stable set search_path = '' as $$
    select now()
$$;

create or replace function public.actp_register_agents(p_worker_id text, p_agents jsonb)
returns void language sql set search_path = '' as $$
    insert into public.actp_agent_registry
        (agent_id, class_name, model, status, worker_id, health, last_seen, registered_at)
    select a.agent_id, a.class_name, a.model, a.status, p_worker_id,
        case when a.why is not null then jsonb_build_object('why_disabled', a.why) end, now(), now()
    from jsonb_to_recordset(p_agents)
        as a (agent_id text, class_name text, model text, status text, why text)
    order by a.agent_id
    on conflict (agent_id) do update set
        class_name = excluded.class_name,
        model = excluded.model,
        status = excluded.status,
        worker_id = excluded.worker_id,
        health = coalesce(excluded.health, actp_agent_registry.health),
        last_seen = excluded.last_seen
$$;

create or replace function public.actp_set_status(
    p_agent_id text, p_status text, p_worker_id text
) returns void language sql set search_path = '' as $$
    update public.actp_agent_registry set
        status = p_status, worker_id = coalesce(p_worker_id, worker_id), last_seen = now()
    where agent_id = p_agent_id
$$;

create or replace function public.actp_set_needs_restart(p_agent_id text, p_value boolean)
returns boolean language sql set search_path = '' as $$
    with changed as (
        update public.actp_agent_registry set needs_restart = p_value, restart_token = null
        where agent_id = p_agent_id
        returning 1
    )
    select exists (select from changed)
$$;

-- For daemons of the release before: the one above. This keeps who asks, and when.
create or replace function public.actp_ask_for_restart(p_agent_id text, p_value boolean, p_by text)
returns boolean language sql set search_path = '' as $$
    with changed as (
        update public.actp_agent_registry set
            needs_restart = p_value, restart_token = null,
            restart_asked_at = case when p_value then case
                when restart_answered_at is null and restart_asked_by is not distinct from p_by
                    and restart_asked_at > now() - interval '1 minute'
                then restart_asked_at else now() end end,
            restart_asked_by = case when p_value then p_by end,
            restart_answered_at = null, restart_answer = null, restart_answered_by = null
        where agent_id = p_agent_id
        returning 1
    )
    select exists (select from changed)
$$;

create or replace function public.actp_note_restart(p_agent_id text, p_by text)
returns void language sql set search_path = '' as $$
    update public.actp_agent_registry set
        restart_asked_at = case
            when restart_answered_at is null and restart_asked_by is not distinct from p_by
                and restart_asked_at > now() - interval '1 minute'
            then restart_asked_at else now() end,
        restart_asked_by = p_by,
        restart_answered_at = null, restart_answer = null, restart_answered_by = null
    where agent_id = p_agent_id
$$;

create or replace function public.actp_answer_restart(
    p_agent_id text, p_worker_id text, p_answer text
) returns void language sql set search_path = '' as $$
    update public.actp_agent_registry set
        restart_answered_at = now(), restart_answer = p_answer, restart_answered_by = p_worker_id
    where agent_id = p_agent_id and restart_asked_at is not null and restart_answered_at is null
$$;

create or replace function public.actp_take_restart_requests(p_agent_ids jsonb, p_token text)
returns jsonb language sql set search_path = '' as $$
    with taken as (
        update public.actp_agent_registry set needs_restart = false, restart_token = p_token
        where agent_id in (select jsonb_array_elements_text(p_agent_ids))
            and (needs_restart or restart_token = p_token)
        returning agent_id
    )
    select coalesce(jsonb_agg(agent_id), '[]') from taken
$$;

create or replace function public.actp_record_heartbeat(
    p_agent_id text, p_health jsonb, p_status text, p_worker_id text
) returns void language sql set search_path = '' as $$
    update public.actp_agent_registry
    set last_heartbeat = now(), last_seen = now(), health = p_health,
        status = coalesce(p_status, status), worker_id = coalesce(p_worker_id, worker_id)
    where agent_id = p_agent_id;
    update public.actp_agent_runs set last_heartbeat = now()
    where agent_id = p_agent_id and finished_at is null
        and worker_id = coalesce(p_worker_id, worker_id);
$$;

create or replace function public.actp_agents() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(
        to_jsonb(r) || jsonb_build_object(
            'heartbeat_age', case when r.last_heartbeat is not null then
                greatest(0, extract(epoch from now() - r.last_heartbeat)) end
        ) order by r.agent_id collate "C"
    ), '[]')
    from public.actp_agent_registry r
$$;

create or replace function public.actp_worker_of(p_instance text) returns text
language sql stable set search_path = '' as $$
    select coalesce(
        (select worker_id from public.actp_workers where instance = p_instance), p_instance
    )
$$;

-- A daemon has ended: what it had in hand goes back, what it had begun is interrupted.
create or replace function public.actp_forget_worker(p_instance text)
returns void language plpgsql set search_path = '' as $$
declare
    orphan public.actp_agent_tasks;
begin
    -- First, as in actp_touch_worker: two that lock in another order would wait for each other.
    update public.actp_workers set ended_at = now()
    where instance = p_instance and ended_at is null;
    for orphan in
        select * from public.actp_agent_tasks
        where instance = p_instance and status = 'running'
        order by id
        for update
    loop
        perform public.actp_hand_back(orphan.id, 0, format(
            '%s ended in attempt %s of %s', orphan.worker_id, orphan.attempts, orphan.max_attempts
        ), null, 0);
    end loop;
    update public.actp_agent_runs set outcome = 'interrupted', finished_at = now()
    where instance = p_instance and finished_at is null;
    update public.actp_job_runs set outcome = 'interrupted', finished_at = now()
    where instance = p_instance and finished_at is null;
    delete from public.actp_leases where instance = p_instance;
end
$$;

-- Notes that a daemon is there, and forgets the others that have been silent for too long.
create or replace function public.actp_touch_worker(
    p_worker_id text, p_instance text, p_agents jsonb, p_silent_after double precision
) returns jsonb language plpgsql set search_path = '' as $$
declare
    silent record;
    forgotten jsonb = '[]';
begin
    -- It was taken for dead and is there again, so what it has begun goes on.
    perform from public.actp_workers
    where instance = p_instance and ended_at is not null for update;
    if found then
        update public.actp_agent_runs set outcome = null, finished_at = null
        where instance = p_instance and outcome = 'interrupted';
        update public.actp_job_runs set outcome = null, finished_at = null
        where instance = p_instance and outcome = 'interrupted';
    end if;
    insert into public.actp_workers as w (instance, worker_id, started_at, last_seen, agents)
    values (p_instance, p_worker_id, now(), now(), p_agents)
    on conflict (instance) do update set
        worker_id = excluded.worker_id, last_seen = excluded.last_seen,
        agents = excluded.agents, ended_at = null;
    for silent in
        select instance, worker_id from public.actp_workers
        where ended_at is null and instance <> p_instance
            and coalesce(last_seen, started_at) < now() - make_interval(secs => p_silent_after)
        order by started_at, seq
        for update skip locked  -- another daemon is at it, or it shows itself
    loop
        perform public.actp_forget_worker(silent.instance);
        forgotten = forgotten || to_jsonb(silent.worker_id);
    end loop;
    return forgotten;
end
$$;

create or replace function public.actp_live_workers() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(jsonb_build_object(
        'worker_id', worker_id, 'instance', instance, 'started_at', started_at,
        'last_seen', coalesce(last_seen, started_at), 'agents', agents,
        'seen_age', greatest(0, extract(epoch from now() - coalesce(last_seen, started_at)))
    ) order by started_at, seq), '[]')
    from public.actp_workers where ended_at is null
$$;

create or replace function public.actp_hold_lease(
    p_name text, p_instance text, p_lease double precision
) returns jsonb language plpgsql set search_path = '' as $$
begin
    insert into public.actp_leases as l (name, instance, worker_id, expires_at)
    values (p_name, p_instance, public.actp_worker_of(p_instance),
        now() + make_interval(secs => p_lease))
    on conflict (name) do update set
        instance = excluded.instance, worker_id = excluded.worker_id,
        expires_at = excluded.expires_at
    where l.instance = excluded.instance or l.expires_at < now();
    return (
        select jsonb_build_object('instance', instance, 'worker_id', worker_id)
        from public.actp_leases where name = p_name
    );
end
$$;

create or replace function public.actp_drop_lease(p_name text, p_instance text)
returns void language sql set search_path = '' as $$
    delete from public.actp_leases where name = p_name and instance = p_instance
$$;

create or replace function public.actp_set_routine_time(
    p_job_name text, p_cron text, p_instead_of text
) returns void language plpgsql set search_path = '' as $$
begin
    if p_cron is null then
        delete from public.actp_routine_times where job_name = p_job_name;
    else
        insert into public.actp_routine_times (job_name, cron, instead_of, changed_at)
        values (p_job_name, p_cron, p_instead_of, now())
        on conflict (job_name) do update set
            cron = excluded.cron, instead_of = excluded.instead_of,
            changed_at = excluded.changed_at;
    end if;
end
$$;

-- For daemons of the release before: the one above. This keeps who has changed it.
create or replace function public.actp_change_routine_time(
    p_job_name text, p_cron text, p_instead_of text, p_by text
) returns void language plpgsql set search_path = '' as $$
begin
    if p_cron is null then
        delete from public.actp_routine_times where job_name = p_job_name;
    else
        insert into public.actp_routine_times as t
            (job_name, cron, instead_of, changed_at, changed_by)
        values (p_job_name, p_cron, p_instead_of, now(), p_by)
        on conflict (job_name) do update set
            cron = excluded.cron, instead_of = excluded.instead_of,
            changed_at = excluded.changed_at, changed_by = excluded.changed_by
        where (t.cron, t.instead_of) is distinct from (excluded.cron, excluded.instead_of);
    end if;
end
$$;

create or replace function public.actp_routine_times() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(t) order by t.job_name), '[]')
    from public.actp_routine_times t
$$;

create or replace function public.actp_set_routine_paused(p_job_name text, p_by text)
returns void language plpgsql set search_path = '' as $$
begin
    if p_by is null then
        delete from public.actp_routine_pauses where job_name = p_job_name;
    else
        insert into public.actp_routine_pauses (job_name, paused_by, paused_at)
        values (p_job_name, p_by, now())
        on conflict (job_name) do nothing;
    end if;
end
$$;

create or replace function public.actp_routine_pauses() returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(p) order by p.job_name), '[]')
    from public.actp_routine_pauses p
$$;

create or replace function public.actp_start_run(p_id text, p_agent_id text, p_instance text)
returns void language sql set search_path = '' as $$
    insert into public.actp_agent_runs (id, agent_id, worker_id, instance, started_at)
    values (p_id, p_agent_id, public.actp_worker_of(p_instance), p_instance, now())
    on conflict (id) do nothing
$$;

create or replace function public.actp_finish_run(p_id text, p_outcome text, p_error text)
returns void language sql set search_path = '' as $$
    update public.actp_agent_runs
    set outcome = p_outcome, error = p_error, finished_at = now()
    where id = p_id and (finished_at is null or outcome = 'interrupted')
$$;

create or replace function public.actp_crash_ages(p_agent_id text, p_within double precision)
returns jsonb language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(
        greatest(0, extract(epoch from now() - finished_at)) order by finished_at desc
    ), '[]')
    from public.actp_agent_runs
    where agent_id = p_agent_id and outcome = 'crashed'
        and finished_at >= now() - make_interval(secs => p_within)
$$;

-- A table that was there before may hold runs that ended in other words.
create or replace function public.actp_runs(p_agent_id text, p_limit integer) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(r) order by r.seq desc), '[]') from (
        select * from public.actp_agent_runs
        where agent_id = p_agent_id
            and (outcome is null or outcome in ('stopped', 'crashed', 'interrupted'))
        order by seq desc
        limit greatest(p_limit, 0)
    ) r
$$;

create or replace function public.actp_set_paused(p_agent_id text, p_by text)
returns boolean language sql set search_path = '' as $$
    with changed as (
        update public.actp_agent_registry set
            paused_at = case when p_by is not null then coalesce(paused_at, now()) end,
            paused_by = case when p_by is not null then coalesce(paused_by, p_by) end
        where agent_id = p_agent_id
        returning 1
    )
    select exists (select from changed)
$$;

-- Whether an agent has a task that could be claimed. Each branch has an index of its own.
create or replace function public.actp_has_work(p_agent_type text) returns boolean
language sql stable set search_path = '' as $$
    select not exists (
            select from public.actp_agent_registry
            where agent_id = p_agent_type and paused_at is not null
        )
        and (
            exists (
                select from public.actp_agent_tasks
                where agent_type = p_agent_type and status = 'queued' and not_before is null
            )
            or exists (
                select from public.actp_agent_tasks
                where agent_type = p_agent_type and status = 'queued' and not_before <= now()
            )
            or exists (
                select from public.actp_agent_tasks
                where agent_type = p_agent_type and status = 'running' and lease_until < now()
            )
        )
$$;

create or replace function public.actp_beat(
    p_instance text, p_agents jsonb, p_tokens jsonb, p_leases jsonb, p_lease double precision,
    p_request text, p_presence jsonb
) returns jsonb language plpgsql set search_path = '' as $$
declare
    served constant text[] = array(select jsonb_array_elements_text(p_agents));
    held constant text[] = array(select jsonb_array_elements_text(p_tokens));
    wanted constant text[] = array(select jsonb_array_elements_text(p_leases));
    asked constant boolean = exists (
        select from public.actp_agent_registry
        where agent_id = any (served) and (needs_restart or restart_token = p_request)
    );
    heart record;
    lease_name text;
    dead jsonb = '[]';
    restarts jsonb = '[]';
    unregistered jsonb = '[]';
begin
    if asked or p_presence is not null then
        -- All in one order: two that lock in another order would wait for each other.
        perform from public.actp_agent_registry
        where agent_id = any (served) or p_presence -> 'agents' ? agent_id
        order by agent_id for update;
    end if;
    if p_presence is not null then
        for heart in
            select * from jsonb_to_recordset(p_presence -> 'heartbeats')
                as h (agent_id text, status text, health jsonb)
        loop
            perform public.actp_record_heartbeat(
                heart.agent_id, heart.health, heart.status, p_presence ->> 'worker_id'
            );
        end loop;
        unregistered = (
            select coalesce(jsonb_agg(agent_id order by agent_id), '[]')
            from jsonb_object_keys(p_presence -> 'agents') as ours (agent_id)
            where not exists (
                select from public.actp_agent_registry r where r.agent_id = ours.agent_id
            )
        );
        dead = public.actp_touch_worker(
            p_presence ->> 'worker_id', p_instance, p_presence -> 'agents',
            (p_presence ->> 'silent_after')::double precision
        );
    end if;
    if asked then
        restarts = public.actp_take_restart_requests(p_agents, p_request);
    end if;
    foreach lease_name in array wanted loop
        perform public.actp_hold_lease(lease_name, p_instance, p_lease);
    end loop;
    update public.actp_agent_tasks t set lease_until = now() + make_interval(secs => p_lease)
    from (
        select id from public.actp_agent_tasks
        where status = 'running' and lease_token = any (held)
            and lease_until < now() + make_interval(secs => p_lease * 2 / 3)
        for update skip locked  -- it is being settled
    ) due
    where t.id = due.id;
    return jsonb_build_object(
        'now', now(),
        'dead', dead,
        'restarts', restarts,
        'unregistered', unregistered,
        'work', (
            select coalesce(jsonb_agg(agent_id), '[]') from unnest(served) as s (agent_id)
            where public.actp_has_work(agent_id)
        ),
        'pauses', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'agent_id', agent_id, 'paused_by', coalesce(paused_by, ''), 'paused_at', paused_at
            ) order by agent_id), '[]')
            from public.actp_agent_registry where paused_at is not null
        ),
        'ended', (
            select coalesce(jsonb_agg(jsonb_build_object('token', h.token, 'state',
                case when t.id is null then 'lost' else 'cancel_requested' end)), '[]')
            from unnest(held) as h (token)
            left join public.actp_agent_tasks t
                on t.lease_token = h.token and t.status = 'running'
            where t.id is null or t.cancel_requested
        ),
        'leases', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'name', name, 'instance', instance, 'worker_id', worker_id
            )), '[]')
            from public.actp_leases where name = any (wanted)
        )
    );
end
$$;

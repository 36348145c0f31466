-- The interface: dashboards, the API and people read these, and nothing else. Columns are only ever added.

CREATE VIEW public.model_calls AS
SELECT ts, gateway, agent, session_id, session_key, kind, channel, entry_id, provider, model, outcome,
       input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
       cost_usd, cost_basis, billing, duration_ms,
       parent_session_key, run_id, error_code, price_version, ts_flag
FROM lobs.model_calls;

CREATE VIEW public.tool_calls AS
SELECT ts, gateway, agent, session_id, entry_id, call_id, tool, kind, outcome, exit_code, duration_ms, output_bytes,
       finished_at, run_id
FROM lobs.tool_calls;

CREATE VIEW public.session_events AS
SELECT ts, gateway, agent, session_id, entry_id, event, detail FROM lobs.session_events;

CREATE VIEW public.sessions AS
SELECT gateway, agent, session_id, session_key, kind, channel, parent_session_key, label, status, provider, model,
       context_tokens, context_limit,
       CASE WHEN context_limit > 0 THEN context_tokens::double precision / context_limit END AS context_ratio,
       coalesce(started_at, first_call_at) AS started_at,
       greatest(updated_at, last_call_at) AS updated_at,
       ended_at, coalesce(archived, false) AS archived,
       calls, errors, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
       cost_usd, equivalent_cost_usd, unpriced_calls, first_call_at, last_call_at
FROM lobs.sessions;

-- Every session key with the root of its chain of parents. A cycle ends where it closes.
CREATE VIEW public.session_roots AS
WITH RECURSIVE known AS (
    SELECT DISTINCT ON (gateway, session_key) gateway, session_key, parent_session_key
    FROM lobs.sessions
    WHERE session_key IS NOT NULL
    ORDER BY gateway, session_key, parent_session_key NULLS LAST
), chain AS (
    SELECT gateway, session_key, session_key AS root_session_key, parent_session_key, 0 AS depth
    FROM known
    UNION ALL
    SELECT chain.gateway, chain.session_key, chain.parent_session_key, parent.parent_session_key, chain.depth + 1
    FROM chain
    LEFT JOIN known AS parent
        ON parent.gateway = chain.gateway AND parent.session_key = chain.parent_session_key
    WHERE chain.parent_session_key IS NOT NULL AND chain.depth < 32
)
SELECT DISTINCT ON (gateway, session_key) gateway, session_key, root_session_key, depth
FROM chain
ORDER BY gateway, session_key, depth DESC;

-- Cost of whole trees: a sub-agent's cost is its own, and here also its root's.
CREATE VIEW public.cost_by_root AS
SELECT s.gateway,
       coalesce(r.root_session_key, s.session_key) AS root_session_key,
       count(*) AS sessions,
       max(r.depth) AS depth,
       sum(s.calls) AS calls,
       sum(s.input_tokens + s.output_tokens + s.cache_read_tokens + s.cache_write_tokens) AS tokens,
       sum(s.cost_usd) AS cost_usd,
       sum(s.equivalent_cost_usd) AS equivalent_cost_usd,
       sum(s.cost_usd) FILTER (WHERE r.depth > 0) AS subagent_cost_usd
FROM lobs.sessions AS s
LEFT JOIN public.session_roots AS r ON r.gateway = s.gateway AND r.session_key = s.session_key
WHERE s.session_key IS NOT NULL
GROUP BY 1, 2;

CREATE VIEW public.subagent_runs AS
SELECT r.gateway, r.run_id, r.child_session_key, r.parent_session_key, r.label, r.status, r.started_at, r.ended_at,
       (extract(epoch FROM r.ended_at - r.started_at) * 1000)::bigint AS duration_ms,
       c.cost_usd, c.equivalent_cost_usd, c.calls, c.tokens
FROM lobs.subagent_runs AS r
LEFT JOIN LATERAL (
    SELECT sum(s.cost_usd) AS cost_usd, sum(s.equivalent_cost_usd) AS equivalent_cost_usd, sum(s.calls) AS calls,
           sum(s.input_tokens + s.output_tokens + s.cache_read_tokens + s.cache_write_tokens) AS tokens
    FROM lobs.sessions AS s
    WHERE s.gateway = r.gateway AND s.session_key = r.child_session_key
) AS c ON true;

CREATE VIEW public.cron_jobs AS
SELECT gateway, job_id, agent, name, schedule, enabled, period_seconds, next_run_at, last_run_at, last_status,
       last_duration_ms, consecutive_errors, last_error, delivery_status, seen_at
FROM lobs.cron_jobs
WHERE removed_at IS NULL;

CREATE VIEW public.cron_runs AS
SELECT r.gateway, r.job_id, j.name, r.started_at, r.finished_at, r.status, r.error, r.session_id,
       (extract(epoch FROM r.finished_at - r.started_at) * 1000)::bigint AS duration_ms
FROM lobs.cron_runs AS r
LEFT JOIN lobs.cron_jobs AS j ON j.gateway = r.gateway AND j.job_id = r.job_id;

CREATE VIEW public.channels AS
SELECT gateway, channel, account, configured, connected, last_inbound_at, last_outbound_at, last_error, seen_at
FROM lobs.channels;

CREATE VIEW public.exec_approvals AS
SELECT gateway, approval_id, agent, session_key, command, status, requested_at, expires_at, resolved_at, resolved_by,
       terminal_reason
FROM lobs.exec_approvals;

CREATE VIEW public.agents AS
SELECT gateway, agent, name, model, is_default, configured, state, activity, state_at, first_call_at,
       greatest(last_activity_at, last_call_at) AS last_activity_at
FROM lobs.agents;

CREATE VIEW public.agent_events AS
SELECT id, ts, gateway, agent, event, activity, tool, session_key, run_id FROM lobs.agent_events;

CREATE VIEW public.gateway_events AS SELECT ts, gateway, event, detail FROM lobs.gateway_events;

CREATE VIEW public.host_samples AS
SELECT ts, gateway, cpu_ratio, load1, memory_used_bytes, memory_total_bytes, swap_used_bytes, disk_used_bytes,
       disk_total_bytes, network_receive_bytes, network_transmit_bytes, gateway_resident_bytes, gateway_cpu_ratio
FROM lobs.host_samples;

CREATE VIEW public.log_signatures AS
SELECT gateway, signature, level, sample, count, first_seen_at, last_seen_at FROM lobs.log_signatures;

CREATE VIEW public.rejects AS
SELECT seen_at, gateway, agent, source, reason, location FROM lobs.rejects
UNION ALL
SELECT seen_at, gateway, '', target, 'refused by the database: ' || reason, id::text FROM lobs.poison_rows;

CREATE VIEW public.cost_snapshots AS
SELECT ts, gateway, source, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd
FROM lobs.cost_snapshots;

CREATE VIEW public.operations AS
SELECT o.id, o.gateway, o.type, o.name, o.description, o.status, o.skill_name, o.agent_id, o.user_id, o.channel,
       o.created_at, o.started_at, o.completed_at, o.duration_ms, o.current_step, o.current_step_index, o.activity,
       o.disposition, o.metadata, o.tags, o.source, o.run_id, o.session_key, o.cron_job_id, o.updated_at,
       s.steps_completed, s.steps_total,
       CASE WHEN s.steps_total > 0 THEN s.steps_completed * 100 / s.steps_total
            WHEN o.status = 'completed' THEN 100 ELSE 0 END AS progress,
       m.prompt_tokens, m.completion_tokens, m.total_tokens, m.cost_usd, m.model
FROM lobs.operations AS o
LEFT JOIN lobs.operation_metrics AS m ON m.operation_id = o.id
LEFT JOIN LATERAL (
    SELECT count(*) AS steps_total, count(*) FILTER (WHERE t.status = 'completed') AS steps_completed
    FROM lobs.operation_steps AS t
    WHERE t.operation_id = o.id
) AS s ON true;

CREATE VIEW public.operation_steps AS
SELECT operation_id, id, position, name, description, status, started_at, completed_at, duration_ms, error
FROM lobs.operation_steps;

CREATE VIEW public.operation_metrics AS
SELECT operation_id, prompt_tokens, completion_tokens, total_tokens, cost_usd, model, updated_at
FROM lobs.operation_metrics;

CREATE VIEW public.tasks AS
SELECT id, board_id, gateway, title, description, status, priority, assigned_agent, due_date, tags, metadata,
       created_by, created_at, updated_at
FROM lobs.tasks;

CREATE VIEW public.task_status_history AS
SELECT id, task_id, at, from_status, to_status, actor FROM lobs.task_status_history;

CREATE VIEW public.comments AS SELECT id, task_id, author, content, created_at FROM lobs.comments;

CREATE VIEW public.task_activities AS
SELECT id, task_id, activity_type, message, agent_id, metadata, created_at FROM lobs.task_activities;

CREATE VIEW public.task_sessions AS
SELECT id, task_id, openclaw_session_id, agent_name, session_type, status, started_at, ended_at,
       (extract(epoch FROM ended_at - started_at) * 1000)::bigint AS duration_ms
FROM lobs.task_sessions;

CREATE VIEW public.activity_feed AS
SELECT id, at, type, actor, action, target_type, target_id, metadata FROM lobs.activity_feed;

CREATE VIEW public.agent_metrics AS
SELECT at, gateway, agent_id, session_id, tokens, cost_usd, runtime_ms, tasks_completed FROM lobs.agent_metrics;

CREATE VIEW public.audit_log AS
SELECT id, at, request_id, phase, actor, action, gateway, target, detail FROM lobs.audit_log;

CREATE VIEW public.alert_events AS
SELECT id, fingerprint, gateway, alert, severity, status, starts_at, ends_at, labels, annotations, received_at
FROM lobs.alert_events;

CREATE VIEW public.alert_rules AS SELECT alert, severity, summary, enabled, updated_at FROM lobs.alert_rules;

CREATE VIEW public.alert_thresholds AS
SELECT alert, severity, gateway, agent, value, updated_at, updated_by FROM lobs.alert_thresholds;

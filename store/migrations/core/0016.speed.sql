-- The calls of a session in the order of time, without a walk through all others.
CREATE INDEX model_calls_session_ts ON lobs.model_calls (session_id, ts);
DROP INDEX lobs.model_calls_session;

-- Sessions as lists show them, and a session by its key or id alone.
CREATE INDEX sessions_changed ON lobs.sessions
    (greatest(updated_at, last_call_at) DESC NULLS LAST, gateway DESC, agent DESC, session_id DESC);
CREATE INDEX sessions_by_key ON lobs.sessions (session_key);
CREATE INDEX sessions_by_id ON lobs.sessions (session_id);

-- The same baseline as before, from one look at the quarter hours of the week instead of one for every agent and day.
CREATE OR REPLACE FUNCTION public.cost_hour_baseline(zone text, at timestamptz DEFAULT now())
RETURNS TABLE (gateway text, agent text, cost_usd numeric, days integer)
LANGUAGE sql STABLE AS $$
WITH hours AS MATERIALIZED (
    SELECT start, start + interval '1 hour' AS ending
    FROM generate_series(1, 7) AS n
    CROSS JOIN LATERAL (
        SELECT (date_trunc('hour', at AT TIME ZONE zone) - make_interval(days => n)) AT TIME ZONE zone AS start
    ) AS s
), used AS MATERIALIZED (
    SELECT u.gateway, u.agent, u.bucket, sum(u.cost_usd) AS cost_usd
    FROM public.usage_15m AS u
    WHERE u.billing = 'billed' AND u.bucket = ANY (ARRAY(
        SELECT start + quarter * interval '15 minutes' FROM hours CROSS JOIN generate_series(0, 3) AS quarter))
    GROUP BY 1, 2, 3
), spent AS (
    SELECT a.gateway, a.agent, h.start, coalesce(sum(u.cost_usd), 0) AS cost_usd
    FROM public.agents AS a
    JOIN hours AS h ON a.first_call_at < h.ending
    LEFT JOIN used AS u
        ON u.gateway = a.gateway AND u.agent = a.agent AND u.bucket >= h.start AND u.bucket < h.ending
    GROUP BY 1, 2, 3
)
SELECT spent.gateway, spent.agent, percentile_disc(0.5) WITHIN GROUP (ORDER BY spent.cost_usd), count(*)::integer
FROM spent
GROUP BY 1, 2
$$;

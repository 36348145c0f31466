-- Days and hours that the clocks of a zone show twice begin at the first of the two. PostgreSQL alone takes the second:
-- where clocks go back at midnight (Havana, the Azores) that cuts an hour off the day.
CREATE FUNCTION public.instant_in(clock timestamp, zone text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
SELECT min(candidate)
FROM (SELECT clock AT TIME ZONE zone AS usual) AS one
CROSS JOIN LATERAL (VALUES
    (usual), (usual - interval '30 minutes'), (usual - interval '1 hour'), (usual - interval '2 hours')
) AS candidates (candidate)
WHERE candidate = usual OR candidate AT TIME ZONE zone = clock
$$;

CREATE OR REPLACE FUNCTION public.cost_windows(zone text, at timestamptz DEFAULT now())
RETURNS TABLE (gateway text, agent text, window_name text, cost_usd numeric, equivalent_cost_usd numeric)
LANGUAGE sql STABLE AS $$
WITH day AS (
    SELECT (at AT TIME ZONE zone)::date AS today
), edge AS (
    SELECT public.instant_in(today::timestamp, zone) AS today,
           public.instant_in((today - 6)::timestamp, zone) AS week,
           public.instant_in((today - 29)::timestamp, zone) AS thirty,
           public.instant_in((today - 7)::timestamp, zone) AS full_week,
           public.instant_in(date_trunc('month', today::timestamp), zone) AS month,
           (date_trunc('month', today::timestamp) + interval '1 month')::date - today - 1 AS days_left
    FROM day
), spent AS (
    SELECT u.gateway, u.agent, u.billing,
           sum(u.cost_usd) FILTER (WHERE u.bucket >= edge.today) AS today,
           sum(u.cost_usd) FILTER (WHERE u.bucket >= edge.week) AS week,
           sum(u.cost_usd) FILTER (WHERE u.bucket >= edge.thirty) AS thirty,
           sum(u.cost_usd) FILTER (WHERE u.bucket >= edge.month) AS month,
           sum(u.cost_usd) FILTER (WHERE u.bucket >= edge.full_week AND u.bucket < edge.today) AS full_week
    FROM public.usage_15m AS u
    CROSS JOIN edge
    WHERE u.bucket >= (SELECT least(thirty, month) FROM edge) AND u.bucket <= at
    GROUP BY 1, 2, 3
), recent AS (
    SELECT c.gateway, c.agent, c.billing, sum(c.cost_usd) AS hour
    FROM public.model_calls AS c
    WHERE c.ts > at - interval '1 hour' AND c.ts <= at
    GROUP BY 1, 2, 3
), one AS (
    SELECT a.gateway, a.agent, b.billing, w.window_name, coalesce(w.value, 0) AS value
    FROM public.agents AS a
    CROSS JOIN (VALUES ('billed'), ('equivalent')) AS b (billing)
    CROSS JOIN edge
    LEFT JOIN spent AS s ON s.gateway = a.gateway AND s.agent = a.agent AND s.billing = b.billing
    LEFT JOIN recent AS r ON r.gateway = a.gateway AND r.agent = a.agent AND r.billing = b.billing
    CROSS JOIN LATERAL (VALUES
        ('1h', r.hour), ('today', s.today), ('7d', s.week), ('30d', s.thirty), ('month', s.month),
        ('month_projected', coalesce(s.month, 0) + coalesce(s.full_week, 0) / 7 * edge.days_left)
    ) AS w (window_name, value)
    WHERE a.first_call_at IS NOT NULL
)
SELECT one.gateway, one.agent, one.window_name,
       sum(one.value) FILTER (WHERE one.billing = 'billed'),
       sum(one.value) FILTER (WHERE one.billing = 'equivalent')
FROM one
GROUP BY 1, 2, 3
$$;

CREATE OR REPLACE FUNCTION public.cost_hour_baseline(zone text, at timestamptz DEFAULT now())
RETURNS TABLE (gateway text, agent text, cost_usd numeric, days integer)
LANGUAGE sql STABLE AS $$
WITH hours AS MATERIALIZED (
    SELECT start, start + interval '1 hour' AS ending
    FROM generate_series(1, 7) AS n
    CROSS JOIN LATERAL (
        SELECT public.instant_in(date_trunc('hour', at AT TIME ZONE zone) - make_interval(days => n), zone) AS start
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

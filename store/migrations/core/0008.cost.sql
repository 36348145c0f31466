-- Money by time. The only definitions of hours, days and windows: the exporter's gauges, the boards and the API
-- all read these.

CREATE VIEW public.usage_15m AS
SELECT bucket, gateway, agent, provider, model, kind, channel, billing, calls, errors, input_tokens, output_tokens,
       cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, unpriced_calls, unpriced_tokens
FROM lobs.usage_15m;

-- Hours of the configured zone (a zone may be off by 30 or 45 minutes).
CREATE VIEW public.cost_hourly AS
SELECT date_trunc('hour', bucket, (SELECT value FROM lobs.settings WHERE key = 'timezone')) AS hour,
       gateway, agent, provider, model, kind, channel, billing,
       sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
       sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_usd) AS cost_usd,
       sum(unpriced_calls)::bigint AS unpriced_calls, sum(unpriced_tokens)::bigint AS unpriced_tokens
FROM lobs.usage_15m
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

-- Days of the configured zone: day is the instant at which the day began there, date its name.
CREATE VIEW public.cost_daily AS
SELECT date_trunc('day', bucket, zone.value) AS day,
       (bucket AT TIME ZONE zone.value)::date AS date,
       gateway, agent, provider, model, kind, channel, billing,
       sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
       sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_usd) AS cost_usd,
       sum(unpriced_calls)::bigint AS unpriced_calls, sum(unpriced_tokens)::bigint AS unpriced_tokens
FROM lobs.usage_15m
CROSS JOIN (SELECT value FROM lobs.settings WHERE key = 'timezone') AS zone
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;

-- The windows of money, for every agent that ever called a model (0 where it spent nothing):
--   1h               the last 60 minutes before `at`, to the millisecond
--   today            since midnight in the zone
--   7d, 30d          today and the 6 (29) days before it
--   month            since the first of the month in the zone
--   month_projected  month + mean of the last 7 full days × whole days left in the month after today
CREATE FUNCTION public.cost_windows(zone text, at timestamptz DEFAULT now())
RETURNS TABLE (gateway text, agent text, window_name text, cost_usd numeric, equivalent_cost_usd numeric)
LANGUAGE sql STABLE AS $$
WITH day AS (
    SELECT (at AT TIME ZONE zone)::date AS today
), edge AS (
    SELECT today::timestamp AT TIME ZONE zone AS today,
           (today - 6)::timestamp AT TIME ZONE zone AS week,
           (today - 29)::timestamp AT TIME ZONE zone AS thirty,
           (today - 7)::timestamp AT TIME ZONE zone AS full_week,
           date_trunc('month', today::timestamp) AT TIME ZONE zone AS month,
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

-- Median billed cost of the same hour of the clock on the last 7 days, over the days on which the agent existed. No
-- row where there is no such day: without a baseline nothing is a runaway.
CREATE FUNCTION public.cost_hour_baseline(zone text, at timestamptz DEFAULT now())
RETURNS TABLE (gateway text, agent text, cost_usd numeric, days integer)
LANGUAGE sql STABLE AS $$
WITH hours AS (
    SELECT start, start + interval '1 hour' AS ending
    FROM generate_series(1, 7) AS n
    CROSS JOIN LATERAL (
        SELECT (date_trunc('hour', at AT TIME ZONE zone) - make_interval(days => n)) AT TIME ZONE zone AS start
    ) AS s
), spent AS (
    SELECT a.gateway, a.agent, h.start,
           coalesce((
               SELECT sum(u.cost_usd) FROM public.usage_15m AS u
               WHERE u.gateway = a.gateway AND u.agent = a.agent AND u.billing = 'billed'
                 AND u.bucket >= h.start AND u.bucket < h.ending
           ), 0) AS cost_usd
    FROM public.agents AS a
    JOIN hours AS h ON a.first_call_at < h.ending
)
SELECT spent.gateway, spent.agent, percentile_disc(0.5) WITHIN GROUP (ORDER BY spent.cost_usd), count(*)::integer
FROM spent
GROUP BY 1, 2
$$;

-- Rebuild the buckets of a range from its calls (after a repricing); bounds are widened to whole buckets.
CREATE FUNCTION lobs.rebuild_usage(starts timestamptz, ends timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    low timestamptz := date_bin('15 minutes', starts, '2000-01-01 00:00+00');
    high timestamptz := date_bin('15 minutes', ends, '2000-01-01 00:00+00') + interval '15 minutes';
BEGIN
    LOCK TABLE lobs.usage_15m IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM lobs.usage_15m WHERE bucket >= low AND bucket < high;
    INSERT INTO lobs.usage_15m
    SELECT date_bin('15 minutes', ts, '2000-01-01 00:00+00'), gateway, agent, provider, model, kind,
           coalesce(channel, ''), billing, count(*), count(*) FILTER (WHERE outcome <> 'ok'),
           sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens),
           sum(reasoning_tokens), coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_basis = 'unpriced'),
           coalesce(sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)
               FILTER (WHERE cost_basis = 'unpriced'), 0)
    FROM lobs.model_calls
    WHERE ts >= low AND ts < high
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
END
$$;

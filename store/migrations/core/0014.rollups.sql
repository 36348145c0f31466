-- Quarter hours and the rows that they are made of. Rows may leave (retention); what they counted stays in
-- lobs.usage_15m. So there is an edge: from `rows_from` on, quarter hours can be built anew from rows; before it they
-- cannot, and nothing may try to.
CREATE TABLE lobs.usage_state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    rows_from timestamptz NOT NULL
);

-- Found, not believed: the end of the newest quarter hour that its rows do not explain.
INSERT INTO lobs.usage_state (rows_from)
WITH built AS (
    SELECT date_bin('15 minutes', ts, '2000-01-01 00:00+00') AS bucket, gateway, agent, provider, model, kind,
           coalesce(channel, '') AS channel, billing, count(*) AS calls,
           count(*) FILTER (WHERE outcome <> 'ok') AS errors, sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens, sum(cache_read_tokens) AS cache_read_tokens,
           sum(cache_write_tokens) AS cache_write_tokens, sum(reasoning_tokens) AS reasoning_tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd,
           count(*) FILTER (WHERE cost_basis = 'unpriced') AS unpriced_calls,
           coalesce(sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)
               FILTER (WHERE cost_basis = 'unpriced'), 0) AS unpriced_tokens
    FROM lobs.model_calls
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), kept AS (
    SELECT bucket, gateway, agent, provider, model, kind, channel, billing, calls, errors, input_tokens, output_tokens,
           cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, unpriced_calls, unpriced_tokens
    FROM lobs.usage_15m
)
SELECT coalesce(max(bucket) + interval '15 minutes', '-infinity')
FROM ((TABLE kept EXCEPT TABLE built) UNION ALL (TABLE built EXCEPT TABLE kept)) AS unexplained;

CREATE FUNCTION lobs.add_usage(increments lobs.usage_15m[]) RETURNS void LANGUAGE sql AS $$
INSERT INTO lobs.usage_15m AS u
SELECT * FROM unnest(increments)
ON CONFLICT (bucket, gateway, agent, provider, model, kind, channel, billing) DO UPDATE SET
    calls = u.calls + excluded.calls,
    errors = u.errors + excluded.errors,
    input_tokens = u.input_tokens + excluded.input_tokens,
    output_tokens = u.output_tokens + excluded.output_tokens,
    cache_read_tokens = u.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = u.cache_write_tokens + excluded.cache_write_tokens,
    reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens,
    cost_usd = u.cost_usd + excluded.cost_usd,
    unpriced_calls = u.unpriced_calls + excluded.unpriced_calls,
    unpriced_tokens = u.unpriced_tokens + excluded.unpriced_tokens
$$;

-- Called by the ledger after it has written calls, in their transaction. The lock on the edge is held to its end.
CREATE FUNCTION lobs.raise_usage(increments lobs.usage_15m[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM lobs.usage_state FOR SHARE;
    PERFORM lobs.add_usage(increments);
END
$$;

-- Rebuild the buckets of a range from its calls (after a repricing); bounds are widened to whole buckets. What rows no
-- longer tell stays as it is.
CREATE OR REPLACE FUNCTION lobs.rebuild_usage(starts timestamptz, ends timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    low timestamptz := date_bin('15 minutes', starts, '2000-01-01 00:00+00');
    high timestamptz := date_bin('15 minutes', ends, '2000-01-01 00:00+00') + interval '15 minutes';
BEGIN
    SELECT greatest(low, rows_from) INTO low FROM lobs.usage_state FOR UPDATE;
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

-- Tables whose old rows are removed by jobs of the database itself: none without TimescaleDB.
CREATE FUNCTION lobs.kept_by_jobs() RETURNS text[] LANGUAGE sql STABLE AS $$ SELECT '{}'::text[] $$;

-- Hours and days are unions of quarter hours, wherever these come from.
CREATE OR REPLACE VIEW public.cost_hourly AS
SELECT date_trunc('hour', bucket, (SELECT value FROM lobs.settings WHERE key = 'timezone')) AS hour,
       gateway, agent, provider, model, kind, channel, billing,
       sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
       sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_usd) AS cost_usd,
       sum(unpriced_calls)::bigint AS unpriced_calls, sum(unpriced_tokens)::bigint AS unpriced_tokens
FROM public.usage_15m
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

CREATE OR REPLACE VIEW public.cost_daily AS
SELECT date_trunc('day', bucket, zone.value) AS day,
       (bucket AT TIME ZONE zone.value)::date AS date,
       gateway, agent, provider, model, kind, channel, billing,
       sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
       sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_usd) AS cost_usd,
       sum(unpriced_calls)::bigint AS unpriced_calls, sum(unpriced_tokens)::bigint AS unpriced_tokens
FROM public.usage_15m
CROSS JOIN (SELECT value FROM lobs.settings WHERE key = 'timezone') AS zone
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;

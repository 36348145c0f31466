-- Quarter hours as a continuous aggregate, right at any instant.
--
-- TimescaleDB's own real-time switch shows new rows at once, but late ones (older than its watermark) only after the
-- next refresh. So the aggregate is read by a view of ours, which knows three edges and the late buckets:
--
--     … rows_from               lobs.usage_15m: their rows have left, or were never all there
--     rows_from … settled_to    lobs.usage_quarters, the aggregate; buckets in lobs.usage_marks from their rows
--     settled_to …              from rows
--
-- The ledger marks the buckets of late rows in the transaction of these rows: nothing is invisible, and a crash forgets
-- nothing. The job lobs.policy_usage refreshes marked buckets and removes the marks that it saw before it began; it is
-- the only one to move settled_to. Whatever else refreshes the aggregate, and whenever, the view shows the same numbers.

ALTER TABLE lobs.usage_state
    ADD COLUMN marked_to timestamptz NOT NULL DEFAULT '-infinity',   -- rows before it leave a mark
    ADD COLUMN settled_to timestamptz NOT NULL DEFAULT '-infinity';  -- the aggregate is read up to here

CREATE TABLE lobs.usage_marks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket timestamptz NOT NULL
);
CREATE INDEX usage_marks_bucket ON lobs.usage_marks (bucket);

CREATE MATERIALIZED VIEW lobs.usage_quarters WITH (timescaledb.continuous, timescaledb.materialized_only = true) AS
SELECT time_bucket('15 minutes', ts) AS bucket, gateway, agent, provider, model, kind, coalesce(channel, '') AS channel,
       billing, count(*) AS calls, count(*) FILTER (WHERE outcome <> 'ok') AS errors,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
       sum(reasoning_tokens)::bigint AS reasoning_tokens, coalesce(sum(cost_usd), 0) AS cost_usd,
       count(*) FILTER (WHERE cost_basis = 'unpriced') AS unpriced_calls,
       coalesce(sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)
           FILTER (WHERE cost_basis = 'unpriced'), 0)::bigint AS unpriced_tokens
FROM lobs.model_calls
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
WITH NO DATA;

CREATE OR REPLACE VIEW public.usage_15m AS
SELECT bucket, gateway, agent, provider, model, kind, channel, billing, calls, errors, input_tokens, output_tokens,
       cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, unpriced_calls, unpriced_tokens
FROM lobs.usage_15m
UNION ALL
SELECT q.bucket, q.gateway, q.agent, q.provider, q.model, q.kind, q.channel, q.billing, q.calls, q.errors,
       q.input_tokens, q.output_tokens, q.cache_read_tokens, q.cache_write_tokens, q.reasoning_tokens, q.cost_usd,
       q.unpriced_calls, q.unpriced_tokens
FROM lobs.usage_quarters AS q
WHERE q.bucket >= (SELECT rows_from FROM lobs.usage_state) AND q.bucket < (SELECT settled_to FROM lobs.usage_state)
  AND q.bucket NOT IN (SELECT DISTINCT bucket FROM lobs.usage_marks)  -- one small hash, however many there are
UNION ALL
SELECT late.bucket, c.gateway, c.agent, c.provider, c.model, c.kind, c.channel, c.billing, c.calls, c.errors,
       c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_write_tokens, c.reasoning_tokens, c.cost_usd,
       c.unpriced_calls, c.unpriced_tokens
FROM (
    SELECT DISTINCT m.bucket FROM lobs.usage_marks AS m
    WHERE m.bucket >= (SELECT rows_from FROM lobs.usage_state)
      AND m.bucket < (SELECT settled_to FROM lobs.usage_state)
) AS late
CROSS JOIN LATERAL (
    SELECT gateway, agent, provider, model, kind, coalesce(channel, '') AS channel, billing, count(*) AS calls,
           count(*) FILTER (WHERE outcome <> 'ok') AS errors, sum(input_tokens)::bigint AS input_tokens,
           sum(output_tokens)::bigint AS output_tokens, sum(cache_read_tokens)::bigint AS cache_read_tokens,
           sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
           coalesce(sum(cost_usd), 0) AS cost_usd, count(*) FILTER (WHERE cost_basis = 'unpriced') AS unpriced_calls,
           coalesce(sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)
               FILTER (WHERE cost_basis = 'unpriced'), 0)::bigint AS unpriced_tokens
    FROM lobs.model_calls
    WHERE ts >= late.bucket AND ts < late.bucket + interval '15 minutes'
    GROUP BY 1, 2, 3, 4, 5, 6, 7
) AS c
UNION ALL
SELECT time_bucket('15 minutes', ts), gateway, agent, provider, model, kind, coalesce(channel, ''), billing, count(*),
       count(*) FILTER (WHERE outcome <> 'ok'), sum(input_tokens)::bigint, sum(output_tokens)::bigint,
       sum(cache_read_tokens)::bigint, sum(cache_write_tokens)::bigint, sum(reasoning_tokens)::bigint,
       coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_basis = 'unpriced'),
       coalesce(sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)
           FILTER (WHERE cost_basis = 'unpriced'), 0)::bigint
FROM lobs.model_calls
WHERE ts >= (SELECT greatest(rows_from, settled_to) FROM lobs.usage_state)
  AND ts <= (SELECT 'infinity'::timestamptz)  -- so that the planner expects few: it would start workers otherwise
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

-- What rows tell is no longer kept twice.
DELETE FROM lobs.usage_15m WHERE bucket >= (SELECT rows_from FROM lobs.usage_state);

CREATE OR REPLACE FUNCTION lobs.raise_usage(increments lobs.usage_15m[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    edge lobs.usage_state;
BEGIN
    -- Held to the end of the transaction: an edge moves when all who saw the former one have committed.
    SELECT * INTO edge FROM lobs.usage_state FOR SHARE;
    PERFORM lobs.add_usage(ARRAY(SELECT one FROM unnest(increments) AS one WHERE one.bucket < edge.rows_from));
    INSERT INTO lobs.usage_marks (bucket)
    SELECT DISTINCT one.bucket FROM unnest(increments) AS one
    WHERE one.bucket >= edge.rows_from AND one.bucket < edge.marked_to;
END
$$;

CREATE OR REPLACE FUNCTION lobs.rebuild_usage(starts timestamptz, ends timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    edge lobs.usage_state;
BEGIN
    SELECT * INTO edge FROM lobs.usage_state FOR SHARE;
    INSERT INTO lobs.usage_marks (bucket)
    SELECT DISTINCT date_bin('15 minutes', ts, '2000-01-01 00:00+00') FROM lobs.model_calls
    WHERE ts >= greatest(date_bin('15 minutes', starts, '2000-01-01 00:00+00'), edge.rows_from)
      AND ts < date_bin('15 minutes', ends, '2000-01-01 00:00+00') + interval '15 minutes' AND ts < edge.marked_to;
END
$$;

-- The refresh policy: everything up to an hour ago, and the buckets that late rows touched (near ones together). It
-- never begins before rows_from, where a refresh would find no rows.
CREATE PROCEDURE lobs.policy_usage(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    goal timestamptz := date_bin('15 minutes', clock_timestamp() - interval '1 hour', '2000-01-01 00:00+00');
    edge lobs.usage_state;
    seen bigint[];
    lows timestamptz[];
    highs timestamptz[];
BEGIN
    -- One at a time: a second one could believe a refresh that the first has begun and not committed.
    IF NOT pg_try_advisory_lock(7305804402566886004) THEN
        RETURN;
    END IF;
    UPDATE lobs.usage_state SET marked_to = goal WHERE marked_to < goal;
    COMMIT;
    -- Whoever writes from here on leaves marks before the goal; all others have committed and are refreshed now.
    SELECT * INTO edge FROM lobs.usage_state;
    goal := edge.marked_to;
    SELECT coalesce(array_agg(id), '{}') INTO seen FROM (SELECT id FROM lobs.usage_marks LIMIT 200000) AS batch;
    SELECT coalesce(array_agg(low), '{}'), coalesce(array_agg(high), '{}') INTO lows, highs
    FROM (
        SELECT min(bucket) AS low, max(bucket) + interval '15 minutes' AS high
        FROM (
            SELECT bucket, count(*) FILTER (WHERE is_far) OVER (ORDER BY bucket) AS stretch
            FROM (
                SELECT bucket, bucket - lag(bucket) OVER (ORDER BY bucket) > interval '6 hours' AS is_far
                FROM (
                    SELECT DISTINCT bucket FROM lobs.usage_marks
                    WHERE id = ANY(seen) AND bucket >= edge.rows_from AND bucket < edge.settled_to
                ) AS late
            ) AS next_to
        ) AS near
        GROUP BY stretch
    ) AS stretches;
    IF greatest(edge.settled_to, edge.rows_from) < goal THEN
        lows := lows || nullif(greatest(edge.settled_to, edge.rows_from), '-infinity');
        highs := highs || goal;
    END IF;
    COMMIT;
    FOR number IN 1 .. cardinality(highs) LOOP
        CALL public.refresh_continuous_aggregate('lobs.usage_quarters', lows[number], highs[number]);
    END LOOP;
    UPDATE lobs.usage_state SET settled_to = goal WHERE settled_to < goal;
    DELETE FROM lobs.usage_marks WHERE id = ANY(seen);
    COMMIT;
    PERFORM pg_advisory_unlock(7305804402566886004);
END
$$;

-- The retention policy of every hypertable: whole chunks that are older than lobs.retention wants. Before calls leave,
-- what they counted is written down.
CREATE PROCEDURE lobs.policy_retention(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    wanted record;
    edge lobs.usage_state;
    gone timestamptz;
BEGIN
    FOR wanted IN
        SELECT r.target, now() - r.keep AS before
        FROM lobs.retention AS r
        JOIN timescaledb_information.hypertables AS h ON h.hypertable_schema = 'lobs' AND h.hypertable_name = r.target
        WHERE r.keep IS NOT NULL
    LOOP
        IF wanted.target = 'model_calls' THEN
            -- Waits for ledgers that have written calls and not yet raised what they count.
            LOCK TABLE lobs.model_calls IN SHARE ROW EXCLUSIVE MODE;
            SELECT * INTO edge FROM lobs.usage_state FOR UPDATE;
            SELECT date_bin('15 minutes', max(range_end) - interval '1 microsecond', '2000-01-01 00:00+00')
                       + interval '15 minutes' INTO gone
            FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'lobs' AND hypertable_name = 'model_calls' AND range_end <= wanted.before;
            IF gone > edge.rows_from THEN
                INSERT INTO lobs.usage_15m
                SELECT * FROM public.usage_15m WHERE bucket >= edge.rows_from AND bucket < gone;
                DELETE FROM lobs.usage_marks WHERE bucket < gone;
                UPDATE lobs.usage_state SET rows_from = gone;
            END IF;
        END IF;
        PERFORM public.drop_chunks(format('lobs.%I', wanted.target)::regclass, older_than => wanted.before);
        COMMIT;
    END LOOP;
END
$$;

DROP FUNCTION lobs.drop_chunks_before(text, timestamptz);
CREATE OR REPLACE FUNCTION lobs.kept_by_jobs() RETURNS text[] LANGUAGE sql STABLE AS $$
SELECT coalesce(array_agg(hypertable_name::text), '{}')
FROM timescaledb_information.hypertables
WHERE hypertable_schema = 'lobs'
$$;

ALTER TABLE lobs.tool_calls SET (timescaledb.compress, timescaledb.compress_segmentby = 'gateway, agent',
                                 timescaledb.compress_orderby = 'ts');
ALTER TABLE lobs.session_events SET (timescaledb.compress, timescaledb.compress_segmentby = 'gateway, agent',
                                     timescaledb.compress_orderby = 'ts');
DO $$
BEGIN
    PERFORM public.add_compression_policy('lobs.tool_calls', interval '90 days');
    PERFORM public.add_compression_policy('lobs.session_events', interval '90 days');
    PERFORM public.add_job('lobs.policy_usage', '1 minute');
    PERFORM public.add_job('lobs.policy_retention', '1 hour');
END
$$;

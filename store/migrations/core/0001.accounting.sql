-- What sessions used: calls, tools, events, and the books that make each of them count once.
-- Base tables live in the schema lobs and are nobody's interface; the views in public are.

CREATE SCHEMA IF NOT EXISTS lobs;

-- One row per thing that was ever counted: 16 bytes that hash its kind and its identity. It outlives the rows
-- themselves, so that nothing counts again after retention. Never deleted.
CREATE TABLE lobs.identities (
    identity uuid PRIMARY KEY
);

-- No unique key: identities says what is new. (A unique key of a hypertable would have to contain ts.)
CREATE TABLE lobs.model_calls (
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    agent text NOT NULL,
    session_id text NOT NULL,
    session_key text,
    parent_session_key text,
    kind text NOT NULL,
    channel text,
    entry_id text NOT NULL,
    identity uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('ok', 'error', 'aborted')),
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    cache_read_tokens bigint NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens bigint NOT NULL CHECK (cache_write_tokens >= 0),
    reasoning_tokens bigint NOT NULL CHECK (reasoning_tokens >= 0),
    cost_usd numeric CHECK (cost_usd >= 0 AND cost_usd < 'Infinity'),
    cost_basis text NOT NULL CHECK (cost_basis IN ('reported', 'priced', 'unpriced')),
    billing text NOT NULL CHECK (billing IN ('billed', 'equivalent')),
    duration_ms bigint,
    run_id text,
    error_code text,
    price_version text,
    ts_flag text,
    CHECK ((cost_usd IS NULL) = (cost_basis = 'unpriced'))
);
CREATE INDEX model_calls_ts ON lobs.model_calls (ts);
CREATE INDEX model_calls_session ON lobs.model_calls (session_id);
CREATE INDEX model_calls_run ON lobs.model_calls (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE lobs.tool_calls (
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    agent text NOT NULL,
    session_id text NOT NULL,
    entry_id text NOT NULL,
    position integer NOT NULL,
    identity uuid NOT NULL,
    call_id text NOT NULL,
    tool text NOT NULL,
    kind text NOT NULL,
    run_id text,
    outcome text CHECK (outcome IN ('ok', 'error', 'nonzero_exit')),
    exit_code bigint,
    duration_ms bigint,
    output_bytes bigint,
    finished_at timestamptz
);
CREATE INDEX tool_calls_ts ON lobs.tool_calls (ts);
CREATE INDEX tool_calls_call ON lobs.tool_calls (session_id, call_id);
CREATE INDEX tool_calls_run ON lobs.tool_calls (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE lobs.session_events (
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    agent text NOT NULL,
    session_id text NOT NULL,
    entry_id text NOT NULL,
    identity uuid NOT NULL,
    event text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX session_events_ts ON lobs.session_events (ts);
CREATE INDEX session_events_session ON lobs.session_events (session_id);

-- A session as it is known, with the sums of its calls (raised in the transaction that inserts them).
CREATE TABLE lobs.sessions (
    gateway text NOT NULL,
    agent text NOT NULL,
    session_id text NOT NULL,
    session_key text,
    kind text,
    channel text,
    parent_session_key text,
    label text,
    status text,
    provider text,
    model text,
    context_tokens bigint,
    context_limit bigint,
    started_at timestamptz,
    updated_at timestamptz,
    ended_at timestamptz,
    archived boolean,
    calls bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cache_read_tokens bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    reasoning_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0,
    equivalent_cost_usd numeric NOT NULL DEFAULT 0,
    unpriced_calls bigint NOT NULL DEFAULT 0,
    first_call_at timestamptz,
    last_call_at timestamptz,
    PRIMARY KEY (gateway, agent, session_id)
);
CREATE INDEX sessions_key ON lobs.sessions (gateway, session_key);
CREATE INDEX sessions_parent ON lobs.sessions (gateway, parent_session_key) WHERE parent_session_key IS NOT NULL;
CREATE INDEX sessions_updated ON lobs.sessions (updated_at DESC);

CREATE TABLE lobs.rejects (
    identity uuid PRIMARY KEY,
    gateway text NOT NULL,
    agent text NOT NULL,
    source text NOT NULL,
    reason text NOT NULL,
    location text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rejects_seen ON lobs.rejects (seen_at);

-- Rows that the database refused (a fault of ours or of the data), kept aside so that the others go on.
CREATE TABLE lobs.poison_rows (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now(),
    gateway text NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    row_text text NOT NULL
);

-- Running totals of the counters: never lowered, never touched by retention.
CREATE TABLE lobs.totals (
    gateway text NOT NULL,
    metric text NOT NULL,
    labels text[] NOT NULL,
    value numeric NOT NULL CHECK (value >= 0),
    PRIMARY KEY (gateway, metric, labels)
);

-- How far each source has been read; saved in the transaction of the rows that the reading gave.
CREATE TABLE lobs.positions (
    gateway text NOT NULL,
    source_key text NOT NULL,
    read_offset bigint NOT NULL,
    generation bigint NOT NULL DEFAULT 0,
    fingerprint text NOT NULL DEFAULT '',
    size bigint NOT NULL DEFAULT 0,
    mtime_ns bigint NOT NULL DEFAULT 0,
    saved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway, source_key)
);

-- Quarter hours in UTC: every zone's hours and days are unions of them. Raised in the transaction of the calls, so a
-- late row is in its bucket the moment it is committed.
CREATE TABLE lobs.usage_15m (
    bucket timestamptz NOT NULL,
    gateway text NOT NULL,
    agent text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    kind text NOT NULL,
    channel text NOT NULL DEFAULT '',
    billing text NOT NULL,
    calls bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cache_read_tokens bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    reasoning_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0,
    unpriced_calls bigint NOT NULL DEFAULT 0,
    unpriced_tokens bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (bucket, gateway, agent, provider, model, kind, channel, billing)
);

-- Agents that are configured or have ever called a model.
CREATE TABLE lobs.agents (
    gateway text NOT NULL,
    agent text NOT NULL,
    name text,
    model text,
    workspace text,
    is_default boolean,
    configured boolean NOT NULL DEFAULT false,
    state text,
    activity text,
    state_at timestamptz,
    first_call_at timestamptz,
    last_call_at timestamptz,
    last_activity_at timestamptz,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway, agent)
);

CREATE TABLE lobs.settings (
    key text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO lobs.settings (key, value) VALUES ('timezone', 'UTC'), ('events_pruned_to', '0');

CREATE TABLE lobs.retention (
    target text PRIMARY KEY,
    keep interval
);
COMMENT ON COLUMN lobs.retention.keep IS 'NULL: for ever';
INSERT INTO lobs.retention (target, keep) VALUES
    ('model_calls', NULL), ('tool_calls', NULL), ('session_events', NULL),
    ('host_samples', '30 days'), ('agent_events', '30 days'), ('events', '24 hours'),
    ('cron_runs', NULL), ('gateway_events', NULL), ('rejects', NULL);

-- Messages for live clients, in the order of their commits.
CREATE TABLE lobs.events (
    id bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic text NOT NULL,
    kind text NOT NULL,
    gateway text,
    payload jsonb NOT NULL
);
CREATE INDEX events_at ON lobs.events (at);
CREATE SEQUENCE lobs.events_id OWNED BY lobs.events.id;

-- Ids are taken under a lock that is held to the commit: whoever has read n will never miss n-1. The notification is
-- only a wake-up. Call it last in a transaction: everyone else waits from here to the commit.
CREATE FUNCTION lobs.publish(topics text[], kinds text[], gateways text[], payloads jsonb[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7305804402566886003);
    FOR i IN 1 .. coalesce(array_length(topics, 1), 0) LOOP
        newest := nextval('lobs.events_id');
        INSERT INTO lobs.events (id, topic, kind, gateway, payload)
        VALUES (newest, topics[i], kinds[i], gateways[i], payloads[i]);
    END LOOP;
    PERFORM pg_notify('lobs_events', '');
    RETURN newest;
END
$$;

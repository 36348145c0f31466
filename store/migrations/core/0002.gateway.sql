-- What the gateway and its host tell.

CREATE TABLE lobs.subagent_runs (
    gateway text NOT NULL,
    run_id text NOT NULL,
    child_session_key text NOT NULL,
    parent_session_key text,
    label text,
    status text NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    PRIMARY KEY (gateway, run_id)
);
CREATE INDEX subagent_runs_child ON lobs.subagent_runs (gateway, child_session_key);

CREATE TABLE lobs.cron_jobs (
    gateway text NOT NULL,
    job_id text NOT NULL,
    agent text,
    name text NOT NULL,
    schedule text NOT NULL,
    enabled boolean NOT NULL,
    period_seconds double precision,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_status text,
    last_duration_ms bigint,
    consecutive_errors integer NOT NULL DEFAULT 0,
    last_error text,
    delivery_status text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    PRIMARY KEY (gateway, job_id)
);

CREATE TABLE lobs.cron_runs (
    gateway text NOT NULL,
    job_id text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    status text NOT NULL,
    error text,
    session_id text,
    PRIMARY KEY (gateway, job_id, started_at)
);
CREATE INDEX cron_runs_started ON lobs.cron_runs (started_at);

CREATE TABLE lobs.channels (
    gateway text NOT NULL,
    channel text NOT NULL,
    account text NOT NULL DEFAULT '',
    configured boolean,
    connected boolean,
    last_inbound_at timestamptz,
    last_outbound_at timestamptz,
    last_error text,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway, channel, account)
);

CREATE TABLE lobs.exec_approvals (
    gateway text NOT NULL,
    approval_id text NOT NULL,
    agent text,
    session_key text,
    command text,
    status text NOT NULL,
    requested_at timestamptz,
    expires_at timestamptz,
    resolved_at timestamptz,
    resolved_by text,
    terminal_reason text,
    PRIMARY KEY (gateway, approval_id)
);

CREATE TABLE lobs.agent_events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    agent text NOT NULL,
    event text NOT NULL,
    activity text,
    tool text,
    session_key text,
    run_id text
);
CREATE INDEX agent_events_ts ON lobs.agent_events (ts);
CREATE INDEX agent_events_agent ON lobs.agent_events (gateway, agent, ts);

-- Starts, stops, versions: the marks on every board.
CREATE TABLE lobs.gateway_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    event text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX gateway_events_ts ON lobs.gateway_events (ts);

CREATE TABLE lobs.host_samples (
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    cpu_ratio double precision,
    load1 double precision,
    memory_used_bytes bigint,
    memory_total_bytes bigint,
    swap_used_bytes bigint,
    disk_used_bytes bigint,
    disk_total_bytes bigint,
    network_receive_bytes bigint,
    network_transmit_bytes bigint,
    gateway_resident_bytes bigint,
    gateway_cpu_ratio double precision
);
CREATE INDEX host_samples_ts ON lobs.host_samples (gateway, ts);

CREATE TABLE lobs.log_signatures (
    gateway text NOT NULL,
    signature text NOT NULL,
    level text NOT NULL,
    sample text NOT NULL,
    count bigint NOT NULL DEFAULT 0,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (gateway, signature)
);

-- The gateway's own usage beside ours, for reconciliation.
CREATE TABLE lobs.cost_snapshots (
    ts timestamptz NOT NULL,
    gateway text NOT NULL,
    source text NOT NULL CHECK (source IN ('gateway', 'lobservatory')),
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    cost_usd numeric NOT NULL,
    PRIMARY KEY (gateway, source, ts)
);

-- Operations: units of work that people follow, derived from runs or posted from outside.

CREATE TABLE lobs.operations (
    id text PRIMARY KEY,
    gateway text,
    type text NOT NULL CHECK (type IN ('skill', 'tool_call', 'agent_task', 'webhook', 'scheduled')),
    name text NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'in_progress', 'completed', 'failed', 'cancelled')),
    skill_name text,
    agent_id text,
    user_id text,
    channel text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    duration_ms bigint,
    current_step text,
    current_step_index integer,
    activity text,
    disposition jsonb,
    metadata jsonb NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    source text NOT NULL DEFAULT 'posted',
    run_id text,
    session_key text,
    session_id text,
    cron_job_id text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    version bigint NOT NULL DEFAULT 1
);
COMMENT ON COLUMN lobs.operations.source IS 'posted, or what it was derived from: run, cron, webhook';
CREATE INDEX operations_created ON lobs.operations (created_at DESC, id DESC);
CREATE INDEX operations_updated ON lobs.operations (updated_at DESC);
CREATE INDEX operations_run ON lobs.operations (gateway, run_id) WHERE run_id IS NOT NULL;

CREATE TABLE lobs.operation_steps (
    operation_id text NOT NULL REFERENCES lobs.operations (id) ON DELETE CASCADE,
    id text NOT NULL,
    position integer NOT NULL,
    name text NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
    started_at timestamptz,
    completed_at timestamptz,
    duration_ms bigint,
    error text,
    PRIMARY KEY (operation_id, id)
);

CREATE TABLE lobs.operation_metrics (
    operation_id text PRIMARY KEY REFERENCES lobs.operations (id) ON DELETE CASCADE,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    total_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric,
    model text,
    updated_at timestamptz NOT NULL DEFAULT now()
);

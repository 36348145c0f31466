-- Runs that users asked for: what waits until its user has room, pipelines of several stages, results to deliver.
-- `stages` holds a task's text only until the gateway has it. For the service only, there is no view.
CREATE TABLE lobs.requested_runs (
    id text PRIMARY KEY,
    gateway text NOT NULL,
    token_id text NOT NULL,
    requested_by text NOT NULL,
    label text NOT NULL,
    stages jsonb NOT NULL,
    stage integer NOT NULL DEFAULT 0,
    status text NOT NULL CHECK (status IN ('waiting', 'running', 'completed', 'failed', 'cancelled')),
    operation_id text,
    error text,
    task_id text,
    deliver_to text CHECK (deliver_to IN ('slack', 'webhook')),
    delivery text CHECK (delivery IN ('pending', 'delivered', 'failed')),
    delivery_attempts integer NOT NULL DEFAULT 0,
    delivery_error text,
    deliver_after timestamptz,
    held_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz
);
CREATE INDEX requested_runs_open ON lobs.requested_runs (gateway, requested_by, created_at)
    WHERE status IN ('waiting', 'running');
CREATE INDEX requested_runs_newest ON lobs.requested_runs (created_at DESC, id DESC);
CREATE INDEX requested_runs_to_deliver ON lobs.requested_runs (deliver_after) WHERE delivery = 'pending';

-- Who may do what, and who did what.

CREATE TABLE lobs.password (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    hash text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- Bearer tokens: only their SHA-256 is here.
CREATE TABLE lobs.tokens (
    id text PRIMARY KEY,
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    name text NOT NULL,
    scopes text[] NOT NULL,
    gateways text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
COMMENT ON COLUMN lobs.tokens.gateways IS 'NULL: all gateways';

-- Single-use tickets for WebSockets of browsers.
CREATE TABLE lobs.tickets (
    sha256 bytea PRIMARY KEY,
    token_id text NOT NULL REFERENCES lobs.tokens (id) ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);

CREATE TABLE lobs.login_failures (
    source text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX login_failures_source ON lobs.login_failures (source, at);

CREATE TABLE lobs.audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    request_id text,
    phase text NOT NULL CHECK (phase IN ('started', 'succeeded', 'failed', 'refused')),
    actor text NOT NULL,
    action text NOT NULL,
    gateway text,
    target text,
    detail jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE lobs.audit_log IS 'Append-only: a command is one row before it is sent and one when it has ended.';
CREATE INDEX audit_log_at ON lobs.audit_log (at);
CREATE INDEX audit_log_request ON lobs.audit_log (request_id);

CREATE TABLE lobs.idempotency_keys (
    actor text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    status integer,
    response jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, key)
);

-- The writer may add to these and never change them.
CREATE FUNCTION lobs.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON lobs.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION lobs.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON lobs.task_status_history
    FOR EACH STATEMENT EXECUTE FUNCTION lobs.refuse_change();

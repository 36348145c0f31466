-- Alerts as Alertmanager told them, and the thresholds that belong to users.

CREATE TABLE lobs.alert_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text NOT NULL,
    gateway text,
    alert text NOT NULL,
    severity text,
    status text NOT NULL CHECK (status IN ('firing', 'resolved')),
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    labels jsonb NOT NULL DEFAULT '{}',
    annotations jsonb NOT NULL DEFAULT '{}',
    received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (fingerprint, starts_at)
);
CREATE INDEX alert_events_starts ON lobs.alert_events (starts_at);

CREATE TABLE lobs.alert_rules (
    alert text PRIMARY KEY,
    severity text NOT NULL,
    summary text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- '' in gateway or agent: all of them.
CREATE TABLE lobs.alert_thresholds (
    alert text NOT NULL,
    severity text NOT NULL,
    gateway text NOT NULL DEFAULT '',
    agent text NOT NULL DEFAULT '',
    value double precision NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text,
    PRIMARY KEY (alert, severity, gateway, agent)
);

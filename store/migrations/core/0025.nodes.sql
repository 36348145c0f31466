-- Devices that are paired with a gateway as its nodes, and what was decided about commands: once, always.
CREATE TABLE lobs.nodes (
    gateway text NOT NULL,
    node_id text NOT NULL,
    name text,
    platform text,
    version text,
    paired boolean,
    connected boolean,
    connected_at timestamptz,
    last_seen_at timestamptz,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway, node_id)
);

CREATE VIEW public.nodes AS
SELECT gateway, node_id, name, platform, version, paired, connected, connected_at, last_seen_at, seen_at
FROM lobs.nodes;

ALTER TABLE lobs.exec_approvals ADD COLUMN decision text;

CREATE OR REPLACE VIEW public.exec_approvals AS
SELECT gateway, approval_id, agent, session_key, command, status, requested_at, expires_at, resolved_at, resolved_by,
       terminal_reason, decision
FROM lobs.exec_approvals;

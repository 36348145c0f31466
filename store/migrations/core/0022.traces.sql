-- How far a gateway's runs were sent as traces, so that those which end while nobody looks are sent after a restart.
-- For the exporter only, there is no view.
CREATE TABLE lobs.trace_positions (
    gateway text PRIMARY KEY,
    sent_to timestamptz NOT NULL
);
-- Model calls of older gateways do not tell their run: their operation is found by the session.
CREATE INDEX operations_session ON lobs.operations (session_id) WHERE session_id IS NOT NULL;

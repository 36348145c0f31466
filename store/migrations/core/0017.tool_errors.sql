-- What kind of failure a tool call ended with; its text is content and is not kept. NULL: none, or a row of before.
ALTER TABLE lobs.tool_calls ADD COLUMN error_class text;

CREATE OR REPLACE VIEW public.tool_calls AS
SELECT ts, gateway, agent, session_id, entry_id, call_id, tool, kind, outcome, exit_code, duration_ms, output_bytes,
       finished_at, run_id, error_class
FROM lobs.tool_calls;

-- Who started whom. The index of the session store forgets a sub-agent that it prunes; its parent is then still known
-- from the tool result that started it, in the parent's own transcript, and from the registry of runs.

CREATE INDEX session_events_spawned ON lobs.session_events (gateway, (detail ->> 'child_session_key'))
    WHERE detail ? 'child_session_key';

CREATE VIEW lobs.session_parents AS
SELECT DISTINCT ON (gateway, session_key) gateway, session_key, parent_session_key
FROM (
    SELECT gateway, session_key, parent_session_key, 1 AS choice
    FROM lobs.sessions WHERE session_key IS NOT NULL AND parent_session_key IS NOT NULL
    UNION ALL
    SELECT gateway, child_session_key, parent_session_key, 2
    FROM lobs.subagent_runs WHERE parent_session_key IS NOT NULL
    UNION ALL
    SELECT e.gateway, e.detail ->> 'child_session_key', s.session_key, 3
    FROM lobs.session_events AS e
    JOIN lobs.sessions AS s
        ON s.gateway = e.gateway AND s.agent = e.agent AND s.session_id = e.session_id AND s.session_key IS NOT NULL
    WHERE e.detail ? 'child_session_key'
      AND (e.event = 'subagent_spawned' OR (e.event = 'nested_tool' AND e.detail ->> 'tool' = 'sessions_spawn'))
) AS told
WHERE parent_session_key <> session_key
ORDER BY gateway, session_key, choice, parent_session_key;

-- Every session key with the root of its chain of parents, to any depth. A circle ends where it closes.
CREATE OR REPLACE VIEW public.session_roots AS
WITH RECURSIVE known AS (
    SELECT gateway, session_key FROM lobs.sessions WHERE session_key IS NOT NULL
    UNION
    SELECT gateway, session_key FROM lobs.session_parents
    UNION
    SELECT gateway, parent_session_key FROM lobs.session_parents
), parent AS MATERIALIZED (
    SELECT gateway, session_key, parent_session_key FROM lobs.session_parents
), chain AS (
    SELECT gateway, session_key, session_key AS root_session_key, 0 AS depth, ARRAY[session_key] AS path
    FROM known
    UNION ALL
    SELECT chain.gateway, chain.session_key, parent.parent_session_key, chain.depth + 1,
           chain.path || parent.parent_session_key
    FROM chain
    JOIN parent ON parent.gateway = chain.gateway AND parent.session_key = chain.root_session_key
    WHERE parent.parent_session_key <> ALL (chain.path)
)
SELECT DISTINCT ON (gateway, session_key) gateway, session_key, root_session_key, depth
FROM chain
ORDER BY gateway, session_key, depth DESC;

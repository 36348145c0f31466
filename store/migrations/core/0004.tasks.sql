-- Tasks and what people and agents do with them.

CREATE TABLE lobs.boards (
    id text PRIMARY KEY,
    name text NOT NULL,
    description text,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO lobs.boards (id, name) VALUES ('default', 'Tasks');

CREATE TABLE lobs.tasks (
    id text PRIMARY KEY,
    board_id text NOT NULL DEFAULT 'default' REFERENCES lobs.boards (id),
    gateway text,
    title text NOT NULL,
    description text,
    status text NOT NULL DEFAULT 'todo'
        CHECK (status IN ('inbox', 'todo', 'assigned', 'in_progress', 'review', 'done')),
    priority text NOT NULL DEFAULT 'medium' CHECK (priority IN ('low', 'medium', 'high', 'urgent')),
    assigned_agent text,
    due_date timestamptz,
    tags text[] NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version bigint NOT NULL DEFAULT 1
);
CREATE INDEX tasks_created ON lobs.tasks (created_at DESC, id DESC);
CREATE INDEX tasks_status ON lobs.tasks (status);
CREATE INDEX tasks_agent ON lobs.tasks (assigned_agent);
CREATE INDEX tasks_tags ON lobs.tasks USING gin (tags);

CREATE TABLE lobs.task_dependencies (
    task_id text NOT NULL REFERENCES lobs.tasks (id) ON DELETE CASCADE,
    depends_on text NOT NULL REFERENCES lobs.tasks (id) ON DELETE CASCADE,
    PRIMARY KEY (task_id, depends_on),
    CHECK (task_id <> depends_on)
);

-- Append-only, and without a foreign key: cycle time and throughput of the past stay when a task is deleted.
CREATE TABLE lobs.task_status_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    from_status text,
    to_status text,
    actor text
);
CREATE INDEX task_status_history_task ON lobs.task_status_history (task_id, id);
CREATE INDEX task_status_history_at ON lobs.task_status_history (at);

CREATE TABLE lobs.comments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL REFERENCES lobs.tasks (id) ON DELETE CASCADE,
    author text NOT NULL,
    content text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX comments_task ON lobs.comments (task_id, id);

CREATE TABLE lobs.task_activities (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL REFERENCES lobs.tasks (id) ON DELETE CASCADE,
    activity_type text NOT NULL
        CHECK (activity_type IN ('spawned', 'updated', 'completed', 'file_created', 'status_changed')),
    message text NOT NULL,
    agent_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX task_activities_task ON lobs.task_activities (task_id, id DESC);

CREATE TABLE lobs.task_deliverables (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL REFERENCES lobs.tasks (id) ON DELETE CASCADE,
    deliverable_type text NOT NULL CHECK (deliverable_type IN ('file', 'url', 'artifact')),
    title text NOT NULL,
    path text,
    description text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX task_deliverables_task ON lobs.task_deliverables (task_id, id DESC);

CREATE TABLE lobs.task_sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text REFERENCES lobs.tasks (id) ON DELETE CASCADE,
    openclaw_session_id text NOT NULL UNIQUE,
    agent_name text,
    session_type text NOT NULL DEFAULT 'subagent' CHECK (session_type IN ('persistent', 'subagent')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'completed', 'failed')),
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);
CREATE INDEX task_sessions_task ON lobs.task_sessions (task_id);
CREATE INDEX task_sessions_active ON lobs.task_sessions (session_type, status);

CREATE TABLE lobs.activity_feed (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    type text NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    target_type text NOT NULL,
    target_id text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX activity_feed_at ON lobs.activity_feed (at);
CREATE INDEX activity_feed_target ON lobs.activity_feed (target_type, target_id, id DESC);

CREATE TABLE lobs.agent_metrics (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    gateway text,
    agent_id text NOT NULL,
    session_id text,
    tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0,
    runtime_ms bigint NOT NULL DEFAULT 0,
    tasks_completed integer NOT NULL DEFAULT 0
);
CREATE INDEX agent_metrics_agent ON lobs.agent_metrics (agent_id, at);

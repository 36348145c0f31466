-- Questions asked in words and their answers, of each user apart. Nobody but the service reads them: there is no view.
CREATE TABLE lobs.chat_conversations (
    id text PRIMARY KEY,
    owner text NOT NULL,
    gateway text NOT NULL,
    title text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX chat_conversations_by_owner ON lobs.chat_conversations (owner, updated_at DESC);

CREATE TABLE lobs.chat_messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_id text NOT NULL REFERENCES lobs.chat_conversations ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT now(),
    role text NOT NULL CHECK (role IN ('user', 'assistant')),
    content text NOT NULL,
    figures jsonb NOT NULL DEFAULT '[]',
    error text
);
CREATE INDEX chat_messages_by_conversation ON lobs.chat_messages (conversation_id, id);

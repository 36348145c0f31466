-- The gateway's log: the newest lines, and how far its files are read (written with the lines, so that none counts twice).
CREATE TABLE lobs.log_lines (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway text NOT NULL,
    ts timestamptz NOT NULL,
    level text NOT NULL,
    subsystem text NOT NULL,
    session text,
    message text NOT NULL
);
CREATE INDEX log_lines_newest ON lobs.log_lines (gateway, id);
CREATE INDEX log_lines_ts ON lobs.log_lines (ts);

CREATE TABLE lobs.log_positions (
    gateway text NOT NULL,
    file text NOT NULL,
    read_to bigint NOT NULL,
    head text NOT NULL,
    head_length integer NOT NULL,
    PRIMARY KEY (gateway, file)
);

CREATE VIEW public.log_lines AS
SELECT id, ts, gateway, level, subsystem, session, message FROM lobs.log_lines;

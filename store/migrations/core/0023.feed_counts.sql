-- How many rows of the feed there are by day (UTC), type, action and actor: counted where they are written, so that the
-- feed's figures need not read all of it.
CREATE TABLE lobs.feed_counts (
    day date NOT NULL,
    type text NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (day, type, action, actor)
);

INSERT INTO lobs.feed_counts (day, type, action, actor, number)
SELECT (at AT TIME ZONE 'UTC')::date, type, action, actor, count(*) FROM lobs.activity_feed GROUP BY 1, 2, 3, 4;

-- How long alerts last, which of them only make noise, and whether alerts come at all.

-- Alertmanager repeats what still fires (our receiver: every hour). What it has not repeated for long may have ended
-- while nobody was told.
ALTER TABLE lobs.alert_events ADD COLUMN heard_at timestamptz NOT NULL DEFAULT now();

CREATE OR REPLACE VIEW public.alert_events AS
SELECT id, fingerprint, gateway, alert, severity, status, starts_at, ends_at, labels, annotations, received_at, heard_at
FROM lobs.alert_events;

-- The alert Watchdog fires always. One row: when it was heard last, and since when its silence has been told.
CREATE TABLE lobs.alert_watchdog (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    heard_at timestamptz NOT NULL,
    told_at timestamptz
);

CREATE VIEW public.alert_watchdog AS SELECT heard_at, told_at FROM lobs.alert_watchdog;

-- Time to resolve, by the day (of the configured zone) on which alerts ended.
CREATE VIEW public.alert_resolution AS
SELECT date_trunc('day', e.ends_at, z.name) AS day, e.gateway, e.alert, e.severity,
       count(*) AS resolved,
       avg(s.seconds) AS mean_seconds,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s.seconds) AS median_seconds,
       max(s.seconds) AS longest_seconds,
       sum(s.seconds) AS total_seconds
FROM lobs.alert_events AS e
CROSS JOIN public.zone AS z
CROSS JOIN LATERAL (SELECT extract(epoch FROM e.ends_at - e.starts_at)::double precision AS seconds) AS s
WHERE e.status = 'resolved' AND e.ends_at IS NOT NULL
GROUP BY 1, 2, 3, 4;

-- The last 30 days, the noisiest first: often is loud, and what ended within five minutes needed nobody.
CREATE VIEW public.alert_noise AS
SELECT rank() OVER (ORDER BY fired DESC, short DESC, alert) AS place, *
FROM (
    SELECT gateway, alert, severity,
           count(*) AS fired,
           count(*) FILTER (WHERE status = 'resolved' AND ends_at - starts_at < interval '5 minutes') AS short,
           count(*) FILTER (WHERE status = 'firing' AND heard_at > now() - interval '3 hours') AS firing,
           avg(extract(epoch FROM ends_at - starts_at)::double precision) FILTER (WHERE status = 'resolved')
               AS mean_seconds,
           max(starts_at) AS last_started_at
    FROM lobs.alert_events
    WHERE starts_at > now() - interval '30 days'
    GROUP BY 1, 2, 3
) AS counted;

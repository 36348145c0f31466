-- Alerts that Alertmanager did not tell us of (another one inhibited them, a silence, or one of us was away): Prometheus
-- knows of them. They are part of the history; noise is what people were told.
ALTER TABLE lobs.alert_events ADD COLUMN told boolean NOT NULL DEFAULT true;

CREATE OR REPLACE VIEW public.alert_events AS
SELECT id, fingerprint, gateway, alert, severity, status, starts_at, ends_at, labels, annotations, received_at, heard_at,
       told
FROM lobs.alert_events;

CREATE OR REPLACE VIEW public.alert_noise AS
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
    WHERE starts_at > now() - interval '30 days' AND told
    GROUP BY 1, 2, 3
) AS counted;

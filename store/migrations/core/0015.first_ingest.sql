-- When the first scan of each gateway's stores had ended: what is older came as history, what is newer was watched.
CREATE VIEW public.first_ingest AS
SELECT gateway, saved_at AS ts FROM lobs.positions WHERE source_key = '#first-scan';

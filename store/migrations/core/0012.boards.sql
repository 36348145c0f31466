-- The zone in which days are counted, for boards that cut days out of the quarter hours by an index.
CREATE VIEW public.zone AS SELECT value AS name FROM lobs.settings WHERE key = 'timezone';

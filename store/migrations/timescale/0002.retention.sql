-- Whole chunks are dropped, not deleted row by row. Only their owner may: the writer asks by this function. NULL when
-- the table is no hypertable.
CREATE FUNCTION lobs.drop_chunks_before(target text, before timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM timescaledb_information.hypertables
                   WHERE hypertable_schema = 'lobs' AND hypertable_name = target) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT count(*) FROM public.drop_chunks(format('lobs.%I', target)::regclass, older_than => before));
END
$$;

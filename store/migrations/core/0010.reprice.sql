-- How long cache writes live decides their price (one hour costs more than five minutes). A call that is priced again
-- later needs to know; NULL where the entry did not tell.
ALTER TABLE lobs.model_calls ADD COLUMN cache_write_1h_tokens bigint, ADD COLUMN cache_write_5m_tokens bigint;

-- With TimescaleDB: the same tables as hypertables. Rollups stay the table that the ledger raises in its own
-- transactions, so views and numbers are those of plain PostgreSQL.
SELECT create_hypertable('lobs.model_calls', 'ts', chunk_time_interval => interval '30 days',
                         migrate_data => true, create_default_indexes => false);
SELECT create_hypertable('lobs.tool_calls', 'ts', chunk_time_interval => interval '30 days',
                         migrate_data => true, create_default_indexes => false);
SELECT create_hypertable('lobs.session_events', 'ts', chunk_time_interval => interval '30 days',
                         migrate_data => true, create_default_indexes => false);
SELECT create_hypertable('lobs.agent_events', 'ts', chunk_time_interval => interval '7 days',
                         migrate_data => true, create_default_indexes => false);
SELECT create_hypertable('lobs.host_samples', 'ts', chunk_time_interval => interval '7 days',
                         migrate_data => true, create_default_indexes => false);

ALTER TABLE lobs.model_calls SET (timescaledb.compress, timescaledb.compress_segmentby = 'gateway, agent',
                                  timescaledb.compress_orderby = 'ts');
ALTER TABLE lobs.host_samples SET (timescaledb.compress, timescaledb.compress_segmentby = 'gateway',
                                   timescaledb.compress_orderby = 'ts');
ALTER TABLE lobs.agent_events SET (timescaledb.compress, timescaledb.compress_segmentby = 'gateway, agent',
                                   timescaledb.compress_orderby = 'ts');
SELECT add_compression_policy('lobs.model_calls', interval '90 days');
SELECT add_compression_policy('lobs.host_samples', interval '7 days');
SELECT add_compression_policy('lobs.agent_events', interval '7 days');

"""From session stores to the ledger: what is read, when, and what is committed; and the scan, which keeps nothing."""

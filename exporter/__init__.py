"""Watches: sources → facts → accounting → sinks; serves `/metrics`. One asyncio process per gateway host."""

"""Fan-out of the outbox to WebSocket and SSE clients."""

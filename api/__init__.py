"""Answers: the FastAPI service with REST, WebSocket, SSE and commands."""

"""Transports: WebSocket, REST, server-sent events, and the documents derived from the table."""

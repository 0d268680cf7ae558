"""The realtime agent hub: one authenticated WebSocket, many conversations and agent runs."""

__version__ = "0.1.0"

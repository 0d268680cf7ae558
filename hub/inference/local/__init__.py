"""The embedded model server: a child process that speaks Ollama's protocol over llama.cpp.

It knows nothing of the hub that starts it, nor the hub of it, but the protocol between them.
"""

from hub.inference.local.command import main

__all__ = ["main"]

"""Models: the ``ModelClient`` interface, Ollama behind it, and the embedded model server."""

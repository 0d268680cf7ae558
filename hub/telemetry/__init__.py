"""What operators see: structured logs, metrics, trace ids."""

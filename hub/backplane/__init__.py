"""What nodes share: logs, pub/sub, leases, a queue, a cache. In memory, or on Redis."""

"""Events: their vocabulary, positions, recovery, fan-out on this node, and outboxes."""

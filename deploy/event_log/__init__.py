"""The event log of a device: what ran, when, in which state; append-only and chained by hashes."""

"""Stages on disk: cards, networks, fingerprints of what a result depends on, the lock of a run folder."""

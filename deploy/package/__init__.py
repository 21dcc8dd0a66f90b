"""The folder that is copied to a device: its card, hashes, signature, golden frames and input statistics."""

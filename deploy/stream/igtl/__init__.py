"""OpenIGTLink: the wire format."""

"""Put a new ship in use on a device, or go back to the one before."""

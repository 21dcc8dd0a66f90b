"""EdgeMT as a service: the watchdog of systemd, units, and a container file."""

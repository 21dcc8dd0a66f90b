"""From a trained student to a folder that runs on the device: prune, quantize, export; ship, run, bench."""

from edgemt.telemetry import switch_off

switch_off()  # before a runtime is imported

"""From a trained student to a folder that runs on the device: prune, quantize, export; ship, run, bench."""

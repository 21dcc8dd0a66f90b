"""Scores of masks: overlap, surface distance, and the clean-up of predicted masks. Loads no torch."""

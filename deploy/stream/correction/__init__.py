"""Masks corrected by a user while the video runs, kept as cases to train on."""

"""Trained networks and packages applied: predict, evaluate, diagnose."""

"""Packages that take clicks and boxes."""

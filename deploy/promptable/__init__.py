"""Prompt input of a package: masks from clicks and boxes."""

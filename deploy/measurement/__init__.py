"""How long calls take: timing loops, percentiles, comparison of the variants of a package."""

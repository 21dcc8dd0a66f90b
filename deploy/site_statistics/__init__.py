"""What streams of a site look like over weeks: histograms of each session, and a test whether two groups differ."""

"""The contract of a method as checks: for the built-in methods, and for `edgemt check PACKAGE`."""

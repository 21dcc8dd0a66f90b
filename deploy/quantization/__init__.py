"""INT8 and float16 graphs, and the accuracy gate that they pass."""

"""What is measured against what. How to measure stands in ``edge.measure``."""

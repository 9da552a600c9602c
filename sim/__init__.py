"""Running the RTL and its netlists against the integer model."""

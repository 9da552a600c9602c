"""RTL of Atreides in Amaranth, and the flows that it goes into."""

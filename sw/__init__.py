"""Software side of Atreides: the number format, its models, and what is built on them."""

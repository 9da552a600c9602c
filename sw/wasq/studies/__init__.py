"""Studies: what values networks hold, what formats do to them, and what follows from sizes."""

"""Reading runs: what they hold, and how it is shown."""

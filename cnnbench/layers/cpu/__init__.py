"""layers/cpu."""

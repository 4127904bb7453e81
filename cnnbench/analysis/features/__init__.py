"""analysis/features."""

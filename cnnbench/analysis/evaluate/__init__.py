"""analysis/evaluate."""

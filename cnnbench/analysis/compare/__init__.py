"""Runs beside each other: read, folded over seeds, tabled, plotted, and as one page.

Reads run records and metrics alone, so that a thousand runs take seconds; only ``disagreement``,
which runs two networks on images, loads torch. How one run is measured belongs to ``evaluate``.
Imports ``runs``, ``rendering`` and ``config``.
"""

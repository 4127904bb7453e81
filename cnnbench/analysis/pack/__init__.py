"""Finished runs and their comparison as one zip file that a reader can check.

``write`` makes it, with a table, figures, the runs' records and a ``checklist``; ``archive`` opens
a stranger's safely; ``recompute`` derives one run's numbers anew, ``verify`` all of them and the
table. How runs are compared belongs to ``compare``. Imports ``compare``, ``runs``, ``training``,
``statistics`` and ``models``; torch only to measure networks.
"""

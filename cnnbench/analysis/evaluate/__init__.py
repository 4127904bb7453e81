"""One run on one split of its data: exact metrics, robustness, and plots of both.

Sums over examples belong to ``metrics``, the loop to ``engine``, classes of a user's own images to
``predict``. Imports ``runs``, ``training.data`` and below.
"""

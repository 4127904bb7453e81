"""The tests behind a verdict: seeds, images and folds, each apart.

Here belong functions over plain arrays, with their definitions in ``docs/statistics.md``. What
reads runs or prints tables does not. Imports numpy, scipy where it is used, and the errors.
"""

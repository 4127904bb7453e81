"""A search: trials drawn from a space one after another, each from what the ones before gave.

``space`` is what may be drawn, read from settings and ``conf/search/``; ``study`` the engine's
memory of the trials, and the only file that imports Optuna; ``run`` asks it for points, has them
trained as the jobs of a sweep, and tells what became of them; ``result`` says what was found. The
run directories are the truth, the engine's memory follows them. Imports ``sweeps``, ``analysis``
and what is below.
"""

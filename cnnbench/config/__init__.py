"""From settings, ``key=value``, to one checked config.

``run_config`` has the keys with their types, ``roles`` what each does to a run, ``schema`` reads a
tree into them, ``settings`` and ``compose`` make the tree from YAML and the command line, and
``command`` is what a verb asks for. Defaults are in ``conf/``, not here, and what a key means for
training belongs to ``training``. ``compose`` is the only file that imports Hydra; nothing loads
torch. Imports the ground alone: ``errors``, ``files``, ``registry``.
"""

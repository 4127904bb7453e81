"""From settings, ``key=value``, to one checked config.

``run_config`` has the keys with their types, ``arguments`` those that only some choices have,
``roles`` what each does to a run, and ``schema`` reads values by their types and knows no key.
``groups`` finds the choices of ``conf/``, ``settings`` handles settings and trees of plain values,
``compose`` makes a config of them, and ``command`` is what a verb asks for. Defaults are in
``conf/``, not here, and what a key means for training belongs to ``training``. ``compose`` is the
only file that imports Hydra; nothing loads torch. Imports the ground alone: ``errors``, ``files``,
``registry``.
"""

"""From settings to a checked, frozen run config.

``run_config`` has the keys with their types, and ``roles`` what each key does to a run's identity.
``schema`` reads values by types and knows no key. ``groups`` finds the choices of ``conf/``,
``settings`` handles ``key=value`` and trees of plain values, and ``compose``, the only file with
Hydra, turns settings into configs. Nothing here builds an object or reads a run: what a config
leads to belongs to ``training``, lists of jobs to ``sweeps``. Imports ``errors``, ``files`` and
``registry``, never torch.
"""

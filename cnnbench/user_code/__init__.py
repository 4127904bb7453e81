"""A Python file of the user's own, which holds a network or a data set: run once.

What is run here is someone's code, so a name may only come from the person at the keyboard: a
settings argument or a flag, never a checkpoint or a recorded config. What the file is asked for
belongs to ``models`` and ``data``, how it is named to ``files``. Imports ``errors`` and
``notices``.
"""

from __future__ import annotations

from cnnbench.user_code.run import run_user_file

__all__ = ["run_user_file"]

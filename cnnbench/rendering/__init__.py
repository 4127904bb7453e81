"""How results are shown: tables in every format, values as text, and the one look of figures.

Nothing here knows what is shown: no run, no network, no metric. It may import the ground and
``files``, loads no torch, and matplotlib only inside functions.
"""

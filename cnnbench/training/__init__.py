"""From a config to a trained run: checked, set up, trained epoch by epoch, resumed.

``launch`` is the way in: check, read, start, resume. ``setup`` has the two types on the way, the
``Plan`` that a check returns and the ``Setup`` that is ready to train, which ``bench`` uses too.
``data`` and ``network`` turn a config into images and first weights, ``trainer`` drives the loop,
``display`` is what a run shows, ``estimates`` what it will take, ``stop`` how it is asked to stop,
``kernels`` whether its operations compute right here, ``distributed`` how several processes of a
run meet and end.
What needs no config belongs lower: loops to ``engine``, images to ``data``, networks to ``models``,
files of a run to ``runs``. Imports all of these; what reads finished runs belongs to ``analysis``.
"""

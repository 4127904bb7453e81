"""Many runs from one command.

``jobs`` makes jobs of settings with lists, all checked before the first starts; ``study`` reads a
whole comparison's list of them; ``slots`` chooses how many run at once; ``run`` has a launcher of
``launchers`` start those that are not done, and ``lease`` says who runs which. ``job`` is the
process of one; ``progress`` tells how all stand. What training is belongs to ``training``. Imports
``training``, ``runs``, ``config`` and the ground, and may show what ``analysis`` finds.
"""

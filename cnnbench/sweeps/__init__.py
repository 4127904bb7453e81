"""Many runs from one command.

``jobs`` makes jobs of settings with lists, all checked before the first starts; ``study`` reads a
whole comparison's list of them; ``local`` runs those that are not done. What one job does belongs
to ``training``. Imports ``training``, ``runs``, ``config`` and the ground, and may show what
``analysis`` finds.
"""

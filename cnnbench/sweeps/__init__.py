"""Many runs from one command.

``expand`` makes jobs of settings with lists and of studies, all checked before the first starts;
``local`` runs those that are not done. What one job does belongs to ``training``. Imports
``training``, ``runs``, ``config`` and the ground, and may show what ``analysis`` finds.
"""

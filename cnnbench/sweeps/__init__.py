"""Many runs from one command.

``expand`` turns settings with lists of values into checked jobs, ``study`` reads a comparison's
list of jobs, and ``local`` runs jobs one after another. What one job does belongs to ``training``,
what its config may be to ``config``. Imports all rooms below; loads torch in the workers alone.
"""

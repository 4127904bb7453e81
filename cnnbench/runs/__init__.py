"""A run directory: what is in it, and what may be done with it.

``directory`` makes, opens and locks it, ``record`` is run.json, ``predictions`` what the network
answers to each test image, ``checkpoint`` the only reader and writer of torch's files, ``network``
builds a run's network without trusting it, ``provenance`` says what a run depends on, ``resume``
what may change when it is resumed, ``prune`` what can go, and ``columns`` which facts and metrics
of finished runs are compared.
Making results belongs to ``training``, reading many of them to ``analysis``. All that is read from
a file is data: no code in it runs. Imports ``config``, ``data``, ``models`` and the ground;
``columns``, ``directory``, ``predictions``, ``record`` and ``resume`` load no torch.
"""

"""A run on disk: its directory, its record, its checkpoints, and the network in them.

Here belongs whatever reads or writes a run directory: ``directory`` (made, found, locked),
``record`` (``run.json`` as a type), ``provenance`` (what made a run's numbers, and whether two
things are the same), ``checkpoint`` (the only caller of ``torch.load`` and ``torch.save``),
``network`` (the weights of the selected epoch, and the network that they are of) and ``prune``
(listing, thinning, removing). A run may be a stranger's: what is read from it is checked here, and
nothing in it can run.

Here does not belong how a run is trained (``training``) or what is made of it (``analysis``).

May import: errors, files, version, device, config, data, models. ``directory``, ``record``,
``provenance`` and ``prune`` load no torch.
"""

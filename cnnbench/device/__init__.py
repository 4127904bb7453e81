"""The hardware: the device that computes, its number format, and a record of the machine.

``device`` finds a device and sets torch up for it, ``precision`` chooses the number format,
``machine`` describes processor, cores, memory and GPUs, and ``kernel_check`` finds the operations
that torch computes wrongly here, by the program ``kernel_trial``. What a network does on a device
belongs to ``layers.cpu`` and ``engine``. Imports ``errors`` alone.
"""

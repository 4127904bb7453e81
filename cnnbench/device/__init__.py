"""The hardware: the device that computes, its number format, and a record of the machine.

``device`` finds a device and sets torch up for it, ``precision`` chooses the number format, and
``machine`` describes processor, cores, memory and GPUs. What a network does on a device belongs to
``layers.cpu`` and ``engine``. Imports ``errors`` alone.
"""

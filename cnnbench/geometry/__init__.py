"""What a network costs and sees, found without running it: shapes, MACs, receptive fields.

``trace`` follows an image through any module on the meta device, ``operations`` knows each kind of
layer, ``summary`` makes tables and warnings of it, ``kernels`` lists the operations that torch is
asked for, ``observe`` leaves a module as it was. It works for every module, so nothing here knows a
network of ours or a config. Imports ``errors`` alone.
"""

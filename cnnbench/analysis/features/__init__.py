"""What a network sees in an image: filters, maps, Grad-CAM and receptive fields, drawn.

``extract`` gives tensors, ``plots`` draws them, ``write`` puts them into run directories and
TensorBoard. Imports ``predict`` for the images, ``runs``, ``geometry`` and ``rendering``.
"""

"""What a network sees in an image: ``extract`` computes it, ``plots`` draws it, ``write`` keeps it.

``extract`` takes any module and knows no run; ``write`` takes run directories and image files.
"""

"""How answers look: ``text`` has tables in every format, ``figures`` the one look of all plots.

``html`` has tables and curves for notebooks. What is in a table or plot belongs to who makes it,
mostly ``analysis``. Matplotlib is imported where a figure is drawn, and torch never. Imports the
ground alone.
"""

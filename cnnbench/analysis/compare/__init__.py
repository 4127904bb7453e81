"""Finished runs side by side: ``records`` are read, ``rows`` fold seeds, ``tables`` order them.

``formats`` spells a row out once for text, Markdown, CSV, LaTeX, JSON and the page (``report``);
``plots`` draws it; ``where`` reads conditions; ``disagreement`` compares two runs image by image.
Facts and metrics of a row are declared in ``runs.columns``. A table is made of run records and
metrics alone, so that a thousand runs take seconds; only ``disagreement``, and the page's layers of
networks, load torch. How one run is measured belongs to ``evaluate``. Imports ``runs``,
``rendering`` and ``config``.
"""

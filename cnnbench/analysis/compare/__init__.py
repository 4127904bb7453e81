"""Finished runs side by side: ``records`` are read, ``rows`` fold seeds, ``tables`` order them.

``formats`` spells a row out once for text, Markdown, CSV, LaTeX, JSON and the page (``report``);
``plots`` draws it; ``where`` reads conditions; ``disagreement`` compares two runs image by image.
What a row shows is declared in ``runs.columns``. But for ``disagreement`` and the page's layers of
networks, nothing here loads torch: a table is made of ``run.json`` and ``metrics.jsonl`` alone.
"""

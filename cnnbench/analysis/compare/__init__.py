"""Finished runs side by side: ``records`` are read, ``rows`` fold seeds, ``tables`` order them.

``predicted`` adds columns that follow from the runs' predictions, where they are asked for.
``verdicts`` has them judged (``analysis.statistics``) and says what was not, ``conclusion`` puts
that into words, ``defaults`` knows which settings only follow from others.
``formats`` spells a row out once for text, Markdown, CSV, LaTeX, JSON and the page (``report``);
``plots`` draws it; ``where`` reads conditions; ``disagreement`` compares two runs image by image.
Facts and metrics of a row are declared in ``runs.columns``. A table is made of run records, metrics
and predictions alone, so that a thousand runs take seconds; only ``disagreement``, and the page's
layers of networks, load torch. How one run is measured belongs to ``evaluate``. Imports ``runs``,
``statistics``, ``rendering`` and ``config``.
"""

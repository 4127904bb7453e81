"""The command line: ``main`` finds the verb and turns errors into exit codes; a file for each verb.

A verb's file has ``DESCRIPTION``, ``add_arguments`` with a help text for each flag, ``epilog`` and
``main``, which calls ``api`` and prints. Whatever else a verb does belongs below it, where Python
reaches it too. Imports ``api``, what renders its answers, and for ``--cfg``, ``--help``, ``data``
and ``runs`` the room that answers them; never what trains or computes.
"""

"""What finished runs, networks and configs are asked: nothing here trains a run.

``compare`` has tables over runs, ``evaluate`` exact metrics of one, ``features`` what a network
sees; ``predict``, ``export``, ``summary``, ``blocks``, ``samples``, ``bench``, ``bench_jobs`` and
``doctor`` are files. Each returns plain values, which ``api`` hands on as what ``results`` has, and
``cli`` prints. Imports ``training`` and all below.
"""

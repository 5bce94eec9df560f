"""Repeats the ablations of a paper with several seeds, and says which of its claims hold.

study.py reads a study's YAML file, plan.py makes its runs, queue.py shares them among workers, worker.py trains them,
results.py collects them, statistics.py and claims.py judge, report.py draws, and cost.py estimates.
"""

"""The controller as a service: it takes jobs in, queues them, drives them, and outlives everything.

`python -m orchestrator.service` is the process that `muster up` starts. `head` is what it does,
without a network; `orchestrator.api` puts HTTP before it.
"""

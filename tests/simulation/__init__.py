"""A run in virtual time: the real controller over a simulated node, and random histories of faults.

`history.play(seed)` is one history. Everything that the controller decides and records is the
product's own code (`Controller` with its judge, keeper, ending, ledger, recorder, devices, plan);
what it stands on is simulated: the clock, the node's supervisor, the ranks, the log. Checkpoints
are real small directories, so that verification, quarantine and retention are the product's too.

`python -m tests.simulation SEED` tells a history; so does MUSTER_TEST_SEED=SEED for the test.
"""

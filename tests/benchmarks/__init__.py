"""Benchmarks, each beside its peer: `python -m tests.benchmarks [--only NAME] [--out FILE]`.

A benchmark measures itself and its peer in one run, several times in turn, cleans up after
itself and is bounded in time. `registry` names them all.
"""

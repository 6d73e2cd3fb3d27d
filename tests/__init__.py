"""Tests of muster."""

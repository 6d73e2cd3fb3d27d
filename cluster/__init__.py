"""Devices of a node or a Ray cluster: probing, allocation, CPU sets, rank tables, membership."""

"""muster: run, watch and recover one process per device on a Ray cluster."""

__version__ = "0.1.0"

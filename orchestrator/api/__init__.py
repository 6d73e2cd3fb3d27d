"""HTTP before the head, `/v1`: thin, versioned, described by its own OpenAPI document.

`operations` is the table of everything that can be asked, and of who may ask it.
"""

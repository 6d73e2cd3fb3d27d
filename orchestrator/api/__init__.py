"""HTTP before the head: versioned, with tokens, described by OpenAPI."""

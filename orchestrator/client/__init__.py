"""A typed client of the controller's API."""

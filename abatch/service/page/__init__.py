"""The operator's page of the service: HTML from templates, for browsers that signed in with a token."""

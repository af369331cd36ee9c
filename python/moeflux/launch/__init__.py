"""Agents on a local server: what each is told, the server that it asks, the life of both."""

"""Kernels of a device by name: `Backend`, `Buffer`, `Command`. Knows no model."""

"""The commands of `moeflux`, one module each; cli.py puts them together."""

"""`moeflux serve`: one model for many clients. Needs `pip install 'moeflux[serve]'`."""

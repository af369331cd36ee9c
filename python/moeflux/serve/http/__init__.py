"""What every dialect shares of HTTP. Knows no tokens and no models."""

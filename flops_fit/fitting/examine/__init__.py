"""A finished fit examined: what is weak, how far it reaches, what to run next."""

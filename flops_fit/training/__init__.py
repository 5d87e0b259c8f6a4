"""Training one experiment with torch: what runs share, the loop and its parts, and how fast."""

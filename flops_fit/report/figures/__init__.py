"""Figures: what is drawn, as values; matplotlib and the page draw the same ones."""

"""One HTML file that shows what a comparison found; it needs no network."""

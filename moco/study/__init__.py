"""The papers' studies, and a user's own, re-run: arms that differ in one thing, an equal number of images for each."""

"""A set of images itself: its duplicates, its outliers, and which of its images to label first."""

"""A fine-tuned encoder to numbers: detection, instance and semantic segmentation (v1, 4.2)."""

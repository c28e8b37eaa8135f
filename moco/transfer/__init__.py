"""A fine-tuned encoder -> numbers: detection, instance and semantic segmentation, keypoints (v1, 4.2)."""

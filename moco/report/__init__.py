"""Run folders -> one page. Nothing here imports torch: what needs it was computed by an evaluation and stored."""

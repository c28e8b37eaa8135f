"""In which groups `moco pretrain RECIPE --help-all` lists the flags; `--help` lists the first group."""

PRETRAIN_GROUPS: dict[str, tuple[str, ...]] = {
    "Common": (
        "data", "out", "epochs", "batch_size", "image_size", "arch", "init_weights", "teacher", "dictionary",
        "queue_size", "lr", "seed", "device", "workers", "keep", "whiten", "json",
    ),
    "Method": (),
    "Data": (
        "exclude", "white_level", "most_pixels", "channels", "bands", "no_data", "decode", "augment", "flip",
        "quarter_turns", "view_size", "small_views", "mean", "std", "accept_changed_data",
    ),
    "Schedule": (
        "max_steps", "end_after", "end_spare", "earlier_lengths", "accumulate", "base_lr", "head_lr", "head_steps",
        "schedule", "milestones", "lr_decay", "warmup_epochs", "optimizer", "muon_lr", "muon_momentum", "sgd_momentum",
        "weight_decay",
    ),
    "Machine": ("precision", "deterministic", "compile", "recompute", "timeout", "threads"),
    "Logging": ("log_every", "logger", "checkpoint_every", "knn_every", "knn_images", "knn_k", "knn_temperature"),
}  # fmt: skip
"""Title -> fields of PretrainConfig. Those that are named nowhere are of the method."""


def group_with(own: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the groups of a recipe: its own flags are among the common ones."""
    return {**PRETRAIN_GROUPS, "Common": (*PRETRAIN_GROUPS["Common"], *own)}

"""Scaling on paper: what a step sends over the wire, what queue and bank hold, and where more GPUs stop paying.

    python -m benchmarks.scaling

from the root of the repository prints the tables of docs/scaling.md. Nothing is measured here. The payloads are
those that the collectives of a real run are given (tests/distributed/test_equality.py counts them), and what a rank
sends for them is that of the usual algorithms: a ring for all_reduce and all_gather, and for all_to_all one message to
each other rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PARAMETERS = 23_508_032 + 2048 * 128 + 128
"""Of ResNet-50 without its classifier, and of v1's head."""
PER_NODE = 8
NIC = 100e9 / 8
"""Bytes a second out of a node, by a network of 100 Gbit/s."""
LINK = 100e9
"""Bytes a second out of a GPU to the others of its node: less than NVLink promises."""
STEP_SECONDS, STEP_IMAGES = 53 * 3600 / (200 * (1281167 // 256)), 256 // 8
"""v1: 53 hours for 200 epochs of ImageNet on 8 V100s with a batch of 256. What a GPU computes for 32 images."""
FASTER = 5
"""A later GPU, in bf16, against the V100."""


@dataclass(frozen=True)
class Job:
    """A run on paper."""

    ranks: int
    batch: int
    parameters: int = PARAMETERS
    feature_dim: int = 128
    queue_size: int = 65536
    image_size: int = 224
    symmetric: bool = False

    @property
    def images(self) -> int:
        """Of each rank, in a step."""
        return self.batch // self.ranks


def payload(job: Job) -> dict[str, int]:
    """The bytes that a rank gives to each collective of a step with a queue (fp32 numbers, int64 indices)."""
    key, times = job.feature_dim * 4, 1 + job.symmetric
    return {
        "gradients": job.parameters * 4,  # all_reduce
        "images": times * job.images * 3 * job.image_size**2 * 4,  # all_to_all: x_k to where it is encoded
        "keys back": times * job.images * key,  # all_to_all
        "keys": times * job.images * key,  # all_gather: into every rank's queue
        "indices": times * job.images * 8,  # all_gather
        "flags": 3 * 4,  # all_reduce: does any rank stop, diverge, or have images replaced
    }


def sent(job: Job) -> dict[str, float]:
    """The bytes that a rank sends to others in a step."""
    others, given = job.ranks - 1, payload(job)
    around = {"all_reduce": 2 * others / job.ranks, "all_to_all": others / job.ranks, "all_gather": float(others)}
    how = {"gradients": "all_reduce", "images": "all_to_all", "keys back": "all_to_all", "keys": "all_gather",
           "indices": "all_gather", "flags": "all_reduce"}  # fmt: skip
    return {name: given[name] * around[how[name]] for name in given}


def out_of_a_node(job: Job) -> float:
    """The bytes that leave each node in a step: a ring leaves it once, and each of its GPUs sends images of its own."""
    if job.ranks <= PER_NODE:
        return 0.0
    ring, images = sent(job), payload(job)
    outside = (job.ranks - PER_NODE) / job.ranks
    exchanged = PER_NODE * outside * (images["images"] + images["keys back"])
    return exchanged + sum(ring[name] for name in ("gradients", "keys", "indices", "flags"))


def wire_seconds(job: Job) -> float:
    """How long a step's bytes take: out of each node, or within the only one."""
    return out_of_a_node(job) / NIC if job.ranks > PER_NODE else sum(sent(job).values()) / LINK


def compute_seconds(job: Job) -> float:
    """How long a V100 computes, in proportion to its images (longer in truth where these are few)."""
    return STEP_SECONDS * job.images / STEP_IMAGES


def bank_read_bytes(job: Job) -> float:
    """What a rank sends in a step for the entries that it reads from a sharded memory bank: an all_reduce."""
    return 2 * (job.ranks - 1) / job.ranks * (job.batch + job.queue_size) * job.feature_dim * 4


def queue_bytes(queue_size: int, feature_dim: int = 128) -> int:
    """What a queue holds on each rank: keys in fp32, the image and the time of each; the data set does not matter."""
    return queue_size * (4 * feature_dim + 8 + 8)


def bank_bytes(images: int, feature_dim: int = 128) -> int:
    """What a memory bank holds, on each rank, or on all of them together where it is sharded."""
    return images * feature_dim * 4


def size(count: float) -> str:
    """Bytes for people, by powers of 1000."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def wire_table(jobs: Sequence[Job]) -> Iterator[str]:
    """What each rank sends, and how long it takes against the computing."""
    columns = (
        "GPUs", "batch", "images each", "gradients", "x_k", "keys back", "keys and indices gathered", "flags",
        "out of each node", "on the wire", "computing, V100", "wire / computing", f"GPU {FASTER} times as fast",
    )  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for job in jobs:
        one = sent(job)
        wire, compute = wire_seconds(job), compute_seconds(job)
        cells = [
            str(job.ranks), str(job.batch), str(job.images), size(one["gradients"]), size(one["images"]),
            size(one["keys back"]), size(one["keys"] + one["indices"]), size(one["flags"]), size(out_of_a_node(job)),
            f"{1000 * wire:.3g} ms", f"{1000 * compute:.0f} ms", f"{100 * wire / compute:.0f}%",
            f"{100 * FASTER * wire / compute:.0f}%",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def memory_table(counts: Sequence[int]) -> Iterator[str]:
    """Queue and bank for data sets of several sizes."""
    yield "| images | queue, each GPU | memory bank | sharded over 8 GPUs, each | over 64 | over 512 |"
    yield "|---" * 6 + "|"
    for count in counts:
        whole = bank_bytes(count)
        shares = " | ".join(size(whole / ranks) for ranks in (8, 64, 512))
        yield f"| 10^{len(str(count)) - 1} | {size(queue_bytes(65536))} | {size(whole)} | {shares} |"


def tables() -> dict[str, list[str]]:
    """The figures of docs/scaling.md: lines of each table."""
    growing = [Job(ranks, 32 * ranks) for ranks in (8, 64, 512)]
    return {
        "the paper's batch": list(wire_table([Job(ranks, 256) for ranks in (8, 16, 64, 128)])),
        "32 images each": list(wire_table(growing)),
        "more for a sharded memory bank": [
            ", ".join(f"{size(bank_read_bytes(job))} on each of {job.ranks} GPUs" for job in growing)
        ],
        "memory": list(memory_table([10**6, 10**8, 10**9])),
    }


if __name__ == "__main__":
    for title, rows in tables().items():
        print(f"{title}\n", *rows, "", sep="\n")

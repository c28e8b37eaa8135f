"""The small trainings and evaluations that both trees run; paths are relative to a case's folder."""

from dataclasses import dataclass

INPUTS = "../../inputs"
GIVEN = "given"
"""A case's own copy of the encoder's run, because evaluations write into a run and read what earlier ones wrote."""
PARTS = {"pretrain": ("encoder", "checkpoint", "figures"), "transfer": ("checkpoint", "figures")}
"""What a command must leave to be compared; every other command leaves figures."""


@dataclass(frozen=True)
class Case:
    """One command line, on how many ranks, and whether it is stopped on the way."""

    name: str
    words: tuple[str, ...]
    """The arguments of `moco`."""
    ranks: int = 1
    stop_after: int | None = None
    """Stop by SIGTERM once this step is logged, then give the same command again."""

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parts that must not be empty."""
        return PARTS.get(self.words[0], ("figures",))

    def takes(self, name: str) -> bool:
        """Whether it reads this input."""
        return (GIVEN if name == "encoder" else f"{INPUTS}/{name}") in self.words


PLAIN = "--threads 1 --device cpu --precision fp32 --json"
TRAINING = (
    "--out run --arch resnet18-w16 --stem cifar --image-size 16 --view-size 16 --batch-size 32 --bn-groups 4 "
    "--queue-size 128 --max-steps 40 --log-every 1 --checkpoint-every 0"
)
DIGITS = f"--data digits --workers 0 --knn-every 20 --knn-images 500 --knn-k 200 {TRAINING} {PLAIN}"
FILES = f"--workers 2 --knn-every 0 {TRAINING} --batch-size 24 {PLAIN}"
"""200 images are eight batches and a part of one: most steps are in the middle of an epoch."""
EVALUATION = f"--weights {GIVEN} --workers 0 {PLAIN}"
TRANSFER = (
    f"--weights {GIVEN} --out run --max-steps 6 --batch-size 2 --precise-bn 2 --head-channels 8 "
    f"--workers 0 --log-every 1 --shown-images 0 {PLAIN}"
)


def case(name: str, words: str, ranks: int = 1, stop_after: int | None = None) -> Case:
    """A case from one line of words; a flag that is given twice has its last value."""
    return Case(name, tuple(words.split()), ranks, stop_after)


def with_dictionary(mechanism: str, more: str = "") -> str:
    """Pre-training on the digits with a dictionary."""
    return f"pretrain quick --dictionary {mechanism} {DIGITS} {more}"


CASES = (
    case("queue", with_dictionary("queue")),
    case("memory-bank", with_dictionary("memory-bank")),
    case("in-batch", with_dictionary("in-batch")),
    case("queue-two-ranks", with_dictionary("queue"), ranks=2),
    case("memory-bank-two-ranks", with_dictionary("memory-bank"), ranks=2),
    case("in-batch-two-ranks", with_dictionary("in-batch"), ranks=2),
    case("symmetric", with_dictionary("queue", "--symmetric")),
    case("accumulate", with_dictionary("queue", "--accumulate 2")),
    case("hard-negatives", with_dictionary("queue", "--hard-negatives 16 --mix 8 --mix-query 4 --mask-own-keys")),
    case("bf16", with_dictionary("queue", "--precision auto")),  # where the machine has it; elsewhere fp32 again
    case("init-weights", with_dictionary("queue", f"--init-weights {GIVEN}")),
    case("continued", f"pretrain continued --init-weights {GIVEN} {DIGITS} --bn-groups 1"),
    case("v1", f"pretrain v1 {DIGITS}"),
    case("v2", f"pretrain v2 {DIGITS} --warmup-epochs 0.2"),
    case("files", f"pretrain quick --dictionary queue --data {INPUTS}/photos {FILES}"),
    case("files-two-ranks", f"pretrain v2 --data {INPUTS}/photos {FILES} --workers 1 --max-steps 20", ranks=2),
    case(
        "paired-own",
        f"pretrain quick --dictionary queue --data {INPUTS}/photos --partner {INPUTS}/photos --pretext paired "
        f"--partner-encoder own --symmetric {FILES}",
    ),
    case("unreadable-file", f"pretrain quick --dictionary memory-bank --data {INPUTS}/damaged {FILES}"),
    case("shards", f"pretrain quick --dictionary in-batch --data {INPUTS}/shards {FILES}"),
    case("stop-resume", with_dictionary("queue", "--symmetric"), stop_after=7),
    case("stop-resume-files", f"pretrain v2 --data {INPUTS}/photos {FILES}", stop_after=11),
    case("knn", f"knn --knn-k 200 --data digits {EVALUATION}"),
    case("linear-fast", f"linear --protocol fast --data digits {EVALUATION}"),
    case("linear-paper", f"linear --protocol paper --epochs 2 --lr 1 --no-baseline --data digits {EVALUATION}"),
    case("finetune", f"finetune --max-steps 20 --save encoder.safetensors --data digits {EVALUATION}"),
    case("embed", f"embed --out features.npz --data {INPUTS}/photos {EVALUATION}"),
    case("semantic", f"transfer voc-semantic --data {INPUTS}/voc-semantic --crop-size 48 {TRANSFER}"),
    case(
        "detector",
        f"transfer voc-dc5 --data {INPUTS}/voc --train-sizes 48 64 --test-size 64 --longest-side 96 --regions 8 "
        f"{TRANSFER}",
    ),
)

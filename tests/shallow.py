"""A ResNet that only tests know, resnet10: one block in each stage, half the time of the smallest that users have.

As a program it is moco, which then knows it too.
"""

import dataclasses
import sys

from moco.core import resnet

_plan = resnet.resnet_plan


def plan_or_shallow(arch: str) -> resnet.ResNetPlan | None:
    """Read the name of an architecture as moco does; `resnet10-w16` is a ResNet-18 of that width and half the depth."""
    plan = _plan(arch.replace("resnet10-", "resnet18-"))
    return dataclasses.replace(plan, layers=(1, 1, 1, 1)) if plan and arch.startswith("resnet10-") else plan


resnet.resnet_plan = plan_or_shallow

if __name__ == "__main__":
    from moco.cli import main

    sys.exit(main())

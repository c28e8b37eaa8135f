"""The plan by which rows change places, for every rank of several; the exchange itself is tested elsewhere."""

import pytest
import torch

from moco.runtime.exchange import exchange, plan_route, send


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_the_plans_of_all_ranks_are_the_permutation(ranks: int) -> None:
    """Each sends as many rows to another as that one expects; what arrives, put in its places, is the rank's block."""
    n = 5
    order = torch.randperm(ranks * n, generator=torch.Generator().manual_seed(ranks))
    rows = torch.arange(ranks * n)
    routes = [plan_route(order, rank, ranks) for rank in range(ranks)]
    leaving = [torch.split(rows[rank * n :][:n][route.rows], route.outgoing) for rank, route in enumerate(routes)]
    for rank, route in enumerate(routes):
        assert route.incoming == [len(pieces[rank]) for pieces in leaving]
        received = torch.cat([pieces[rank] for pieces in leaving])
        assert torch.equal(received[route.places], order[rank * n :][:n])


def test_one_process_only_looks_up() -> None:
    """And what is sent to the processor stays where it is."""
    x, order = torch.arange(8.0).view(4, 2), torch.tensor([3, 0, 2, 1])
    assert torch.equal(exchange(x, order), x[order])
    assert send(order, torch.device("cpu")) is order

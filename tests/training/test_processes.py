"""Two real processes share a batch and get the loss, the gradients and the training of one."""

import pandas as pd
import pytest
import torch
from two_processes import CRITICS, gradients_of_two, in_two, loss_and_gradients, runs_of_two, stage2_gradients, train

from v2f_core.training.processes import own_device


@pytest.fixture(scope="module")
def gradients(tmp_path_factory, tiny_profile):
    """The folder with the gradients of two processes."""
    folder = tmp_path_factory.mktemp("gradients")
    in_two(gradients_of_two, str(folder), str(tiny_profile.prior.parent))
    return folder


def test_two_processes_give_the_loss_and_the_gradients_of_one(gradients):
    alone = loss_and_gradients(0, 1)
    for rank in range(2):
        shared = torch.load(gradients / f"{rank}.pt", weights_only=True)
        assert len(shared) == len(alone) == 4
        torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("critic", CRITICS, ids=lambda critic: critic.__name__)
def test_two_processes_give_stage_ii_the_gradients_of_one(critic, gradients, tiny_profile):
    alone = stage2_gradients(tiny_profile.prior.parent, critic)
    shared = [torch.load(gradients / f"{critic.__name__}-{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close((shared[0][0] + shared[1][0]) / 2, alone[0], atol=1e-5, rtol=1e-5)
    for both in shared:
        torch.testing.assert_close(both[1:], alone[1:], atol=1e-5, rtol=1e-4)
    assert all(gradient.abs().max() > 1e-4 for gradient in alone[1:3])


@pytest.mark.slow
def test_two_processes_train_stage_ii_as_one_does_though_stopped_and_started_again(tiny_profile, tmp_path):
    """Stopped after the second step, and continued."""
    root, two, one = tiny_profile.prior.parent, tmp_path / "two", tmp_path / "one"
    two.mkdir()
    in_two(runs_of_two, str(two), str(root))
    train(root, one, steps=2)
    alone = train(root, one)
    both = [torch.load(two / f"stage2-{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in alone.items():
        assert torch.equal(both[0][name], both[1][name]), name
        torch.testing.assert_close(both[0][name], value, atol=1e-4, rtol=1e-3)
    for table in ("history.csv", "monitors.csv"):
        found, expected = pd.read_csv(two / "stage2" / table), pd.read_csv(one / table)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_each_process_uses_the_gpu_that_its_launcher_gave_it(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(device) for device in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]

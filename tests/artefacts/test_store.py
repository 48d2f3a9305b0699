"""The store of embeddings: nothing is lost, nothing made twice, and every bad item listed."""

import json
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from v2f_core.artefacts import store as stores
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.errors import InputError
from v2f_core.training.pairs import pair_up


class Embedder:
    """A stand-in: file "7" has two embeddings of value 7. ``bad``: files that it cannot embed."""

    def __init__(self, bad=(), killed_after=None):
        self.seen, self.bad, self.killed_after = [], set(bad), killed_after

    def __call__(self, paths):
        out = []
        for path in paths:
            if self.killed_after is not None and len(self.seen) >= self.killed_after:
                raise KeyboardInterrupt
            self.seen.append(path.name)
            value = torch.full((2, 3), float(path.name))
            out.append(InputError(f"{path}: damaged") if path.name in self.bad else value)
        return out


def run(folder, embed, count=20, weights="ab", **settings):
    items, made_from = [str(i) for i in range(count)], {"weights_sha256": weights}
    return stores.extract(Path("root"), items, embed, folder, made_from, batch=3, shard=4, **settings)


def test_what_is_not_wanted_yet_is_left_to_a_later_run(tmp_path):
    part = run(tmp_path, first := Embedder(), wanted={"9", "2", "elsewhere"})
    assert first.seen == ["0", "1", "2", "3", "8", "9", "10", "11"]  # the whole shards of both
    assert part.of(["9", "2", "13"])[0][:, 0].tolist() == [9, 9, 2, 2]
    with pytest.raises(InputError, match="not finished"):
        stores.load(tmp_path)
    whole = run(tmp_path, second := Embedder())
    assert second.seen == [str(i) for i in range(20) if str(i) not in first.seen]
    assert torch.equal(whole.vectors, run(tmp_path / "whole", Embedder()).vectors)


@pytest.mark.parametrize("killed_after", [0, 5])
def test_a_killed_run_continues_where_it_stopped(tmp_path, killed_after):
    first, second = Embedder(killed_after=killed_after), Embedder()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", first)
    with pytest.raises(InputError, match="not finished"):
        stores.load(tmp_path / "killed")
    resumed = run(tmp_path / "killed", second)
    whole = run(tmp_path / "whole", Embedder())
    done = killed_after // 4 * 4  # whole shards
    assert second.seen == [str(i) for i in range(done, 20)]
    assert torch.equal(resumed.vectors, whole.vectors)
    assert resumed.items == whole.items == [str(i // 2) for i in range(40)]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()
    (tmp_path / "killed" / "00002.safetensors").unlink()  # a lost shard is made again, alone
    run(tmp_path / "killed", again := Embedder())
    assert again.seen == ["8", "9", "10", "11"]


def test_another_run_in_the_same_folder_does_not_shift_rows(tmp_path):
    """Two notebooks open the dataset at once: one finishes shards that the other has not begun, but not all."""

    class Overtaken(Embedder):
        def __call__(self, paths):
            if not self.seen:
                with suppress(KeyboardInterrupt):
                    run(tmp_path, Embedder(killed_after=5))
            return super().__call__(paths)

    store = run(tmp_path, Overtaken())
    assert store.items == [str(i // 2) for i in range(40)]
    assert store.vectors[:, 0].tolist() == [i // 2 for i in range(40)]


def test_a_few_bad_items_are_skipped_counted_and_listed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Embedder(bad=["2"], killed_after=9), count=40)
    store = run(tmp_path, Embedder(bad=["30"]), count=40)
    report = pd.read_csv(tmp_path / "skipped.csv", dtype=str)
    assert report.item.tolist() == [item for item, _ in store.skipped] == ["2", "30"]  # also from before the kill
    assert report.why[0] == f"{Path('root') / '2'}: damaged"
    assert len(store.items) == 2 * 38
    assert store.of(["2"])[1] == []


def test_too_many_bad_items_stop_the_run_early_and_are_listed(tmp_path):
    embed = Embedder(bad=["0", "1", "2"])
    with pytest.raises(InputError, match=r"skipped.csv: 3 of 40 .* more than 5%"):
        run(tmp_path, embed, count=40)
    assert len(embed.seen) == 4
    assert len(pd.read_csv(tmp_path / "skipped.csv")) == 3
    assert len(run(tmp_path, embed, count=40, max_bad=0.1).items) == 2 * 37


def test_a_shard_of_embeddings_that_are_not_finite_does_not_spoil_the_store(tmp_path):
    def embed(paths):
        return [torch.full((2, 3), torch.nan if 4 <= int(path.name) < 8 else 1.0) for path in paths]

    store = run(tmp_path, embed, max_bad=0.5)
    assert store.vectors.shape == (32, 3)
    assert [item for item, _ in store.skipped] == ["4", "5", "6", "7"]


def test_a_store_of_other_weights_or_items_is_not_mixed_in(tmp_path):
    run(tmp_path, Embedder())
    with pytest.raises(InputError, match="items, items_sha256 differ"):
        run(tmp_path, Embedder(), count=21)
    with pytest.raises(InputError, match="weights_sha256 differ"):
        run(tmp_path, Embedder(), weights="cd")
    (tmp_path / "00001.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"00001.safetensors: cannot be read as .*; delete it"):
        run(tmp_path, Embedder())


def test_threads_that_read_ahead_change_nothing(tmp_path):
    def read(path):
        time.sleep(0.001 * (int(path.name) % 3))  # so that files are done in another order
        if path.name == "7":
            raise InputError("damaged")
        return path

    one, four = (run(tmp_path / str(n), Embedder(), decode=read, workers=n, max_bad=0.1) for n in (0, 4))
    assert torch.equal(one.vectors, four.vectors)
    assert (one.items, one.skipped) == (four.items, four.skipped)
    assert [item for item, _ in four.skipped] == ["7"]


def test_a_store_of_version_0_1_is_read(tmp_path):
    """Its files, written here by hand."""
    header = {"rows": ["b.wav", "b.wav"], "skipped": [["a.wav", "a.wav: damaged"]], "files": 2}
    values = torch.arange(6.0).view(2, 3)
    save_file({"embeddings": values}, tmp_path / "00000.safetensors", metadata={"header": json.dumps(header)})
    (tmp_path / "provenance.json").write_text(json.dumps({"what": "speaker embeddings", "items": 2, "shard": 256}))
    store = stores.load(tmp_path)
    assert torch.equal(store.vectors, values)
    assert (store.items, store.skipped) == (["b.wav", "b.wav"], [("a.wav", "a.wav: damaged")])


# --- rows that stay on disk


@pytest.fixture
def both(tmp_path):
    """The same store of 20 files in memory and on disk; the windows of a file differ."""

    def embed(paths):
        return [torch.full((2, 3), 1 + float(path.name)) + torch.arange(2.0)[:, None] / 10 for path in paths]

    run(tmp_path, embed)
    return stores.load(tmp_path), stores.load(tmp_path, in_memory=0)


def test_rows_on_disk_are_the_rows_in_memory(both):
    whole, rows = (store.vectors for store in both)
    assert isinstance(rows, stores.Rows)
    assert rows.shape == whole.shape == (40, 3)
    for which in (torch.tensor([39, 0, 12, 12]), torch.tensor([[3, 4], [28, 11]]), slice(5, 20), slice(None)):
        assert torch.equal(rows[which], whole[which])
    order = torch.randperm(40)[:17]
    assert torch.equal(rows.pick(order).pick(torch.tensor([16, 2]))[:], whole[order][[16, 2]])
    assert torch.equal(rows.to("cpu")[torch.tensor([7])], whole[7:8])


def test_pairs_from_disk_are_the_pairs_from_memory(both, tmp_path):
    rows = [(f"P{i % 4}", "f", "train", "voice", "", str(i)) for i in range(20)]
    rows += [(f"P{i}", "f", "train", "face", "", f"{i}.png") for i in range(3)]  # P3 has no face
    manifest = Manifest(tmp_path, pd.DataFrame(rows, columns=list(COLUMNS)))
    faces = stores.Embeddings(torch.eye(3), [f"{i}.png" for i in range(3)], [], {})
    here, there = (pair_up(manifest, voices, faces, "train") for voices in both)
    assert isinstance(there.voice, stores.Rows)
    there.check()
    assert torch.equal(here.pooled_voices(), there.pooled_voices())
    assert torch.equal(here.only([2, 0]).voice, there.only([2, 0]).voice[:])
    assert torch.equal(here.pooled().voice, there.pooled().voice)
    drawn = [pairs.draw(3, 2, torch.Generator().manual_seed(0)) for pairs in (here, there)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))

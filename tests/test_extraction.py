"""From images to feature files: streamed, resumable, cached, equal for any batch size."""

import json

import numpy as np
import pytest
import torch

from diffrep import data
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.errors import FormatError, InputError, UsageError
from diffrep.extraction import extract, extract_to
from diffrep.feature_set import FeatureSet, read_parquet
from diffrep.schedules import DiscreteSchedule
from diffrep.tap_features import TapFeatures
from tests.stub import StubNetwork


@pytest.fixture
def features():
    denoiser = Denoiser(StubNetwork(), schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8)).eval()
    return TapFeatures(denoiser, ["enc.1", "mid"], denoiser.schedule.at([1, 10]))


@pytest.fixture(scope="module")
def digits():
    splits = data.load("digits")
    return {name: splits[name].take(50) for name in ("train", "test")}


def test_a_feature_set_holds_all_that_a_probe_needs(features, digits):
    found = extract(features, digits["train"], cache=False)
    assert found.names == features.names
    assert found["mid@log_snr=6.12"].shape == (50, 16)
    assert found["mid@log_snr=6.12"].dtype == np.float32
    assert np.array_equal(found.labels, digits["train"].labels)
    assert found.ids == digits["train"].ids
    assert found.split == "train"
    assert found.protocol["model"] == features.base.identity
    json.dumps(found.protocol)


def test_batch_size_and_order_do_not_matter(features, digits):
    whole = extract(features, digits["train"], cache=False)
    small = extract(features, digits["train"], cache=False, batch_size=7)
    order = np.random.default_rng(0).permutation(50)
    mixed = extract(features, digits["train"].subset(order), cache=False)
    for name in whole:
        np.testing.assert_allclose(small[name], whole[name], atol=1e-5)
        np.testing.assert_allclose(mixed[name], whole[name][order], atol=1e-5)


def test_the_second_time_it_comes_from_the_cache(features, digits, tmp_path):
    first = extract(features, digits["train"], cache=tmp_path)
    passes = len(features.denoiser.network.seen)
    again = extract(features, digits["train"], cache=tmp_path)
    assert len(features.denoiser.network.seen) == passes
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert again.protocol == first.protocol
    extract(features, digits["train"].take(49), cache=tmp_path)  # other data: computed
    assert len(features.denoiser.network.seen) > passes


def test_a_parquet_file_is_read_by_any_tool(features, digits, tmp_path):
    import pyarrow.parquet as pq

    path = extract_to(features, digits, tmp_path / "features.parquet")
    table = pq.read_table(path)
    assert table.column_names == ["id", "path", "split", "label", *features.names]
    assert str(table.schema.field("mid@log_snr=6.12").type) == "fixed_size_list<element: float>[16]"
    assert table["split"].to_pylist() == ["train"] * 50 + ["test"] * 50
    assert table["path"].null_count == 100
    metadata = table.schema.metadata
    assert metadata[b"diffrep.model_sha256"].decode() == features.base.identity
    assert json.loads(metadata[b"diffrep.protocol"])["pool"] == "mean"
    expected = extract(features, digits["test"], cache=False)
    found = FeatureSet.load(path, "test")
    assert np.array_equal(found.labels, expected.labels)
    assert found.class_names == expected.class_names
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert [p.name for p in tmp_path.iterdir()] == ["features.parquet"]


def test_a_stopped_extraction_goes_on_where_it_stopped(features, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("diffrep.extraction.PART", 20)
    calls = []

    def stop(done, total):
        calls.append(done)
        if done == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_to(features, digits, tmp_path / "f.parquet", progress=stop)
    assert not (tmp_path / "f.parquet").exists()
    passes = len(features.denoiser.network.seen)
    path = extract_to(features, digits, tmp_path / "f.parquet")
    assert len(features.denoiser.network.seen) - passes == 3 * 2  # three parts of six were missing, two levels each
    unbroken = extract(features, digits["train"], cache=False)
    for name in unbroken:
        np.testing.assert_allclose(FeatureSet.load(path, "train")[name], unbroken[name], atol=1e-5)


def test_images_are_brought_to_the_models_input(features):
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 20, 3), dtype=np.uint8)
    found = extract(features, data.Dataset(images, list("abcd")), cache=False)
    assert found.labels is None
    assert found["mid@log_snr=6.12"].shape == (4, 16)


def test_what_is_wrong_is_named(features, digits, tmp_path):
    found = extract(features, digits["train"], cache=False)
    with pytest.raises(UsageError, match="did you mean"):
        found["mid@log_snr=6.13"]
    with pytest.raises(InputError, match="no feature file"):
        FeatureSet.load(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(FormatError, match="Parquet"):
        FeatureSet.load(tmp_path / "broken.parquet")
    found.save(tmp_path / "one.parquet")
    with pytest.raises(InputError, match='no split "val"'):
        FeatureSet.load(tmp_path / "one.parquet", "val")
    assert list(read_parquet(tmp_path / "one.parquet")) == ["train"]


def test_missing_labels_come_back_as_none(tmp_path):
    plain = FeatureSet({"a": np.zeros((2, 3), np.float32)}, None, (), ["x", "y"], "test", {"model": "m"}, ["p", None])
    plain.save(tmp_path / "f.parquet")
    found = FeatureSet.load(tmp_path / "f.parquet")
    assert found.labels is None
    assert found.paths == ["p", None]


def test_extraction_leaves_the_denoiser_as_it_was(features, digits):
    before = {name: tensor.clone() for name, tensor in features.denoiser.state_dict().items()}
    extract(features, digits["train"], cache=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in features.denoiser.state_dict().items())


def test_all_splits_at_once_are_refused(features):
    with pytest.raises(UsageError, match=r'one split.*data\["train"\]'):
        extract(features, data.load("digits"))

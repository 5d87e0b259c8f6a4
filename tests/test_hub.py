"""Datasets of the Hugging Face library as files of tokens: `dataset=hub`."""

import json
import sys

import numpy as np
import pytest
import torch

from flops_fit.datasets import Hub
from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError

datasets = pytest.importorskip("datasets")

WORDS = ["the", "law", "of", "scaling", "holds", "for", "small", "models", "and", "large", "ones"]
TEXTS = [
    f"{number} " + " ".join(np.random.default_rng(number).choice(WORDS, 30))
    for number in range(300)
]
IDS = [np.random.default_rng(number).integers(1, 500, 40).tolist() for number in range(300)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    lines = (json.dumps({"n": i, "text": text}) for i, text in enumerate(TEXTS))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    yield tmp_path
    datasets.enable_progress_bars()


def table(**columns):
    return datasets.Dataset.from_dict(columns)


def rows_of(source):
    """All held-out samples with their last target, as lists."""
    batches = source.held_out_batches(64, source.held_out_samples)
    return [
        [*x, y[-1]] for xs, ys in batches for x, y in zip(xs.tolist(), ys.tolist(), strict=True)
    ]


def text_of(source):
    """Training and held-out bytes as their documents."""
    steps = source.unique_samples
    samples = [next(source.training_batches(1, seed=0, start_step=step)) for step in range(steps)]
    windows = [x[0].tolist() for x, _ in samples] + [row[:-1] for row in rows_of(source)]
    return [bytes(window) for window in windows]


def test_one_content_is_one_dataset_however_it_comes(folder):
    whole = table(text=TEXTS, n=list(range(300)))
    whole.save_to_disk(folder / "saved")
    whole.to_parquet(folder / "rows.parquet")
    datasets.DatasetDict(train=whole).save_to_disk(folder / "dict")
    names = [whole, whole.to_iterable_dataset(), str(folder / "rows.jsonl"), folder / "saved"]
    names += [str(folder / "*.parquet"), folder / "dict"]
    sources = [Hub(name, context_length=16) for name in names]
    sources.append(Hub(str(folder / "rows.jsonl"), context_length=16, streaming=True))
    assert len({source.fingerprint for source in sources}) == 1
    assert len({source.bytes_per_token for source in sources}) == 1


def test_rows_are_parted_by_content_and_packed_whole(folder):
    source = Hub(table(text=TEXTS), context_length=8, held_out=0.2)
    found = b"".join(text_of(source)).decode()
    held_out = bytes(i for row in rows_of(source) for i in row[:-1]).decode()
    assert 30 < held_out.count("\0") < 90  # about a fifth of 300
    assert sum(len(text) + 1 for text in TEXTS) - len(found) < 16  # the ends of both parts
    again = Hub(table(text=TEXTS + TEXTS[:50]), context_length=8, held_out=0.2)
    held_out = {tuple(row[:-1]) for row in rows_of(source)}
    assert held_out <= {tuple(row[:-1]) for row in rows_of(again)}  # a copy goes where its like is


def test_a_stream_is_read_as_far_as_it_is_needed(folder):
    read = []

    def endless():
        for number in range(10**9):
            read.append(number)
            yield {"text": f"{number} " + "word " * 20}

    stream = datasets.IterableDataset.from_generator(endless)
    source = Hub(stream, context_length=16, max_tokens=4001)
    assert source.unique_samples == 250
    assert max(read) < 2000
    order = [next(source.training_batches(4, seed=1, start_step=step))[0] for step in range(20)]
    steps = source.training_batches(4, seed=1)
    assert all((next(steps)[0] == batch).all() for batch in order)


def test_ready_ids_are_taken_without_their_padding(folder):
    padded = table(
        input_ids=[[*ids, 0, 0, 0] for ids in IDS], attention_mask=[[1] * 40 + [0] * 3] * 300
    )
    plain = table(tokens=IDS)
    sources = [Hub(data, context_length=16, vocab_size=500) for data in (padded, plain)]
    assert [row for row in rows_of(sources[0]) if 0 in row] == []
    assert sources[0].bytes_per_token is None
    samples = sources[1].unique_samples + sources[1].held_out_samples
    assert samples == pytest.approx(300 * 40 / 16, abs=2)


def test_another_split_may_be_held_out(folder):
    both = datasets.DatasetDict(train=table(text=TEXTS[:200]), validation=table(text=TEXTS[200:]))
    source = Hub(both, context_length=8, held_out_split="validation")
    total = sum(len(text) + 1 for text in TEXTS[200:])
    assert source.held_out_samples == (total - 1) // 8
    assert bytes(rows_of(source)[0]).decode() in "\0".join(TEXTS[200:])


def test_text_is_tokenized_once(folder, monkeypatch):
    pytest.importorskip("tokenizers")
    settings = {"context_length": 8, "vocab_size": 300, "tokenizer": "bpe"}
    source = Hub(str(folder / "rows.jsonl"), **settings)
    assert source.bytes_per_token > 2
    monkeypatch.setattr("flops_fit.datasets.hub.write_parts", lambda *_: pytest.fail("made again"))
    assert Hub(str(folder / "rows.jsonl"), **settings).fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        ({"text": ["a"], "n": [1]}, {"column": "body"}, "has no column body: there are text, n"),
        ({"n": [1], "m": [2]}, {}, "no column with a usual name: there are n, m; set dataset.col"),
        ({"n": [1]}, {"column": "n"}, "column n holds int such as '1'"),
        ({"ids": [[0.5]]}, {}, "column ids holds list"),
        ({"ids": [[1, 2], [1, 700]]}, {"vocab_size": 500}, "id 700, dataset.vocab_size is 500"),
        ({"ids": [[1, -2]]}, {"vocab_size": 500}, "holds the id -2"),
        ({"ids": [[1]]}, {"tokenizer": "bpe"}, "holds ids already: leave out dataset.tokenizer"),
        ({"text": ["a"]}, {"vocab_size": 100}, "dataset.vocab_size is 100"),
        ({"text": ["a"]}, {}, "no tokens of the held-out part"),
        ({"text": ["a"]}, {"held_out": 1.5}, r"held_out is 1\.5"),
        ({"text": ["a"]}, {"max_tokens": 0}, "max_tokens is 0"),
        ({"text": []}, {}, "is empty"),
    ],
)
def test_what_cannot_be_is_said(folder, data, settings, said):
    with pytest.raises(ConfigError, match=said):
        Hub(table(**data), **settings)


def test_what_is_not_there_is_said(folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"split test: can't be loaded .*Unknown split"):
        Hub(str(folder / "rows.jsonl"), split="test")
    with pytest.raises(ConfigError, match="split is valid: there are train"):
        Hub(datasets.DatasetDict(train=table(text=TEXTS)), split="valid")
    (folder / "rows.dat").touch()
    with pytest.raises(ConfigError, match=r"files must end in \.json"):
        Hub(str(folder / "rows.dat"))
    for name in ("missing.csv", "missing.jsonl.gz", "./missing", "data/*.parquet", "a/b/c"):
        with pytest.raises(ConfigError, match="there is no such file or folder"):
            Hub(name)
    with pytest.raises(ConfigError, match=r"dataset\.name is list: give a name"):
        Hub([1, 2])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ConfigError, match=r"needs the datasets library: pip install 'flops-fit\[hub"
    ):
        Hub("some/data")


NUMBERS = {"x": np.eye(40, 3).tolist(), "label": [float(i) for i in range(40)]}


@pytest.mark.parametrize("streamed", [False, True], ids=["table", "stream"])
def test_a_dataset_of_numbers_is_trained_on_as_it_is(streamed):
    raw, other = table(**NUMBERS), table(x=[[2.0, 3.0, 4.0]] * 5, label=[7.0] * 5)
    source = as_source(raw.to_iterable_dataset() if streamed else raw, held_out=other, batch_size=4)
    inputs, target = next(source.training_batches(4, seed=0))
    assert inputs["x"].shape == (4, 3)
    assert {*target.tolist()} < {*NUMBERS["label"]}
    held_out, targets = next(source.held_out_batches(5, 5))
    assert held_out["x"].tolist() == [[2.0, 3.0, 4.0]] * 5
    assert targets.tolist() == [7.0] * 5


def test_a_format_that_its_user_chose_stays():
    raw = table(**NUMBERS).with_transform(lambda rows: {"x": torch.tensor(rows["label"])})
    source = as_source(raw, batch_size=2)
    assert set(next(source.training_batches(2, seed=0))[0]) == {"x"}


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (table(text=TEXTS), r"text \(str\); have the text made into token ids, dataset=flops_fit"),
        (table(text=TEXTS, n=[1] * 300), r"keep what is numbers, dataset.select_columns\(\['n'\]"),
        (table(text=TEXTS).to_iterable_dataset(), r"text \(str\); have the text made"),
        (table(x=[{"a": 1}] * 9), "x .dict.; map them to numbers of one shape"),
        (
            datasets.DatasetDict(train=table(n=[1]), test=table(n=[2])),
            r"of the splits train, test: give one of them, such as dataset=splits\['train'\]",
        ),
    ],
)
def test_what_is_no_tensor_is_said_with_what_to_do(dataset, said):
    with pytest.raises(ConfigError, match=said):
        as_source(dataset)

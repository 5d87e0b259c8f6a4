import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from flops_fit.datasets import PythonSource, Text, Tokens
from flops_fit.datasets.source import CountsBytes
from flops_fit.errors import ConfigError

tokenizers = pytest.importorskip("tokenizers")

END = "<|endoftext|>"
SENTENCE = "the law of scaling holds for Müller's models, 測度 and all: x = {1: 'a'} and"
WORDS = [*SENTENCE.split(), END]


def text_of(number, num_words=300):
    words = np.random.default_rng(number).choice(WORDS, num_words)
    return f"{number}\n" + "".join(
        f"{word}{[' ', '  ', chr(10)][i % 3]}" for i, word in enumerate(words)
    )


@pytest.fixture
def texts(tmp_path):
    """Path -> text of 40 documents."""
    documents = {tmp_path / "corpus" / f"{i}.txt": text_of(i) for i in range(40)}
    (tmp_path / "corpus").mkdir()
    for path, text in documents.items():
        path.write_bytes(text.encode())
    return documents


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def made(texts, tmp_path, cache):
    """Makes the corpus's source, with arguments changed."""

    def make(**changes):
        arguments = {"context_length": 16, "held_out": 0.2, "vocab_size": 400, "tokenizer": "bpe"}
        return Text(str(tmp_path / "corpus"), **{**arguments, "cache_dir": cache, **changes})

    return make


@pytest.fixture
def saved(tmp_path):
    """Writes a tokenizer and gives its path."""

    def save(tokenizer):
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return str(tmp_path / "tokenizer.json")

    return save


def byte_level(texts, vocab_size=300, special=(END,)):
    """A tokenizer made without our code."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size, special_tokens=list(special), show_progress=False
    )
    return tokenizers.Tokenizer.from_str(tokenizer.to_str())


def folders(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def cached(cache):
    """Tokenizer, training ids and held-out ids in the only folder of the cache."""
    (folder,) = folders(cache)
    info = json.loads((folder / "info.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    parts = (
        np.fromfile(folder / f"{part}.bin", info["dtype"]) for part in ("training", "held_out")
    )
    return tokenizer, *(ids.tolist() for ids in parts)


def documents_of(ids, end):
    """The ids of each document, without the end."""
    assert ids[-1] == end
    groups = itertools.groupby(ids, key=lambda i: i == end)
    return [list(group) for is_end, group in groups if not is_end]


def inputs(batches):
    return [x for xs, _ in batches for x in xs.tolist()]


@pytest.mark.parametrize("kind", ["bpe", "saved"])
class TestBothKinds:
    @pytest.fixture
    def source(self, kind, made, saved, texts):
        if kind == "bpe":
            return made()
        return made(tokenizer=saved(byte_level(texts.values())))

    def test_decoding_gives_every_document_once(self, source, cache, texts):
        tokenizer, training, held_out = cached(cache)
        end = tokenizer.token_to_id(END)
        decoded = [tokenizer.decode(ids) for ids in documents_of(training + held_out, end)]
        assert sorted(decoded) == sorted(texts.values())

    def test_samples_are_windows_of_these_tokens(self, source, cache):
        _, training, held_out = cached(cache)
        epoch = itertools.islice(source.training_batches(1, seed=0), source.unique_samples)
        for samples, ids in (
            (inputs(epoch), training),
            (inputs(source.held_out_batches(8, source.held_out_samples)), held_out),
        ):
            windows = [ids[i : i + 16] for i in range(0, len(ids) - 16, 16)]
            assert sorted(samples) == sorted(windows)

    def test_bytes_per_token_are_those_of_the_held_out_part(self, source, cache, texts):
        tokenizer, _, held_out = cached(cache)
        documents = documents_of(held_out, tokenizer.token_to_id(END))
        names = {tokenizer.decode(ids) for ids in documents}
        sizes = [path.stat().st_size + 1 for path, text in texts.items() if text in names]
        assert len(sizes) == len(documents)
        assert source.bytes_per_token == sum(sizes) / len(held_out)
        assert source.bytes_per_token > 1.5
        assert isinstance(source, CountsBytes)

    def test_made_again_nothing_is_encoded_again(self, source, made, saved, cache, kind):
        def stamps():
            (folder,) = folders(cache)
            stats = {path.name: path.stat() for path in folder.iterdir()}
            return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}

        before = stamps()
        tokenizer = "bpe" if kind == "bpe" else str(cache.parent / "tokenizer.json")
        with pytest.MonkeyPatch.context() as without:
            without.setitem(sys.modules, "tokenizers", None)
            again = made(tokenizer=tokenizer)
            longer = made(tokenizer=tokenizer, context_length=32)
        assert again.fingerprint == source.fingerprint != longer.fingerprint
        assert again.bytes_per_token == source.bytes_per_token
        assert stamps() == before


def test_bpe_is_trained_on_the_training_part_alone_and_always_alike(made, tmp_path):
    first, again = (made(cache_dir=tmp_path / name) for name in ("a", "b"))
    assert first.fingerprint == again.fingerprint
    tokenizer, training, _ = cached(tmp_path / "a")
    texts = [tokenizer.decode(ids) for ids in documents_of(training, tokenizer.token_to_id(END))]
    others = byte_level(texts, vocab_size=400)
    assert tokenizer.get_vocab() == others.get_vocab()


def test_bytes_need_no_tokenizer_and_count_one_each(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert made(tokenizer=None).bytes_per_token == 1.0
    assert PythonSource().bytes_per_token == 1.0


def test_of_token_files_the_bytes_may_be_told(tmp_path):
    np.zeros(1000, np.uint16).tofile(tmp_path / "ids")
    assert Tokens(tmp_path / "ids", 10, 8).bytes_per_token is None
    assert Tokens(tmp_path / "ids", 10, 8, bytes_per_token=4.2).bytes_per_token == 4.2
    with pytest.raises(ConfigError, match=r"bytes_per_token is 0: .* such as 4\.2"):
        Tokens(tmp_path / "ids", 10, 8, bytes_per_token=0)


def test_other_content_is_encoded_anew(made, texts, cache):
    before = made()
    path = next(iter(texts))
    path.write_text(path.read_text() + "more")
    assert made().fingerprint != before.fingerprint
    assert len(folders(cache)) == 2


def test_long_documents_are_cut_where_their_tokens_end_anyway(made, saved, texts, tmp_path, cache):
    long = text_of(99, num_words=100_000)
    (tmp_path / "corpus" / "long.txt").write_text(long)
    tokenizer = byte_level(texts.values())
    made(tokenizer=saved(tokenizer))
    tokenizer.encode_special_tokens = True
    _, training, held_out = cached(cache)
    documents = documents_of(training + held_out, tokenizer.token_to_id(END))
    assert tokenizer.encode(long).ids in documents


def test_a_document_without_lines_survives_as_well(made, tmp_path, cache):
    endless = "scaling law " * 30_000
    (tmp_path / "corpus" / "long.txt").write_text(endless)
    made()
    tokenizer, training, held_out = cached(cache)
    documents = documents_of(training + held_out, tokenizer.token_to_id(END))
    assert endless in map(tokenizer.decode, documents)


def test_what_else_a_tokenizer_is_told_to_do_is_left_out(made, saved, texts, cache):
    tokenizer = byte_level(texts.values(), special=(END, "<start>"))
    plain = [tokenizer.encode(text).ids for text in texts.values() if END not in text]
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $0", special_tokens=[("<start>", tokenizer.token_to_id("<start>"))]
    )
    made(tokenizer=saved(tokenizer))
    _, training, held_out = cached(cache)
    documents = documents_of(training + held_out, tokenizer.token_to_id(END))
    assert all(ids in documents for ids in plain)


def test_large_vocabularies_without_an_end_of_document(made, saved, texts, cache):
    texts = {path: text.replace(END, "end") for path, text in texts.items()}
    for path, text in texts.items():
        path.write_bytes(text.encode())
    words = sorted({word for text in texts.values() for word in text.split()})
    vocab = {f"unused {i}": i for i in range(70_000)} | {w: 70_000 + i for i, w in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="unused 0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    path = saved(tokenizer)
    num_ids = 70_000 + len(words)
    with pytest.raises(ConfigError, match=f"has {num_ids} ids: set dataset.vocab_size={num_ids}"):
        made(tokenizer=path, vocab_size=num_ids - 1)
    assert folders(cache) == []
    source = made(tokenizer=path, vocab_size=num_ids)
    _, training, held_out = cached(cache)
    assert len(training + held_out) == sum(len(text.split()) for text in texts.values())
    assert min(training + held_out) >= 70_000
    with pytest.raises(ConfigError, match=f"set dataset.vocab_size={num_ids}"):
        made(tokenizer=path, vocab_size=num_ids - 1)
    held_out_texts = [t for t in texts.values() if vocab[t.split()[0]] in held_out]
    num_bytes = sum(len(text.encode()) for text in held_out_texts)
    assert source.bytes_per_token == num_bytes / len(held_out)


def test_what_is_no_utf8_is_read_as_replacement_characters(made, tmp_path, cache):
    (tmp_path / "corpus" / "latin.txt").write_bytes("Müller".encode("latin-1"))
    made()
    tokenizer, training, held_out = cached(cache)
    documents = documents_of(training + held_out, tokenizer.token_to_id(END))
    assert "M�ller" in map(tokenizer.decode, documents)


def test_the_cache_is_in_the_users_own_by_default(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    made(cache_dir=None)
    assert len(folders(tmp_path / "xdg" / "flops-fit")) == 1


def test_what_a_killed_process_left_is_in_nobodys_way(made, cache, tmp_path):
    expected = made(cache_dir=tmp_path / "other")
    (folder,) = folders(tmp_path / "other")
    unfinished = cache / f"{folder.name}.tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "training.bin").write_bytes(b"abc")
    assert made().fingerprint == expected.fingerprint
    assert [path.name for path in folders(cache)] == [folder.name]


def test_damaged_files_are_told_with_the_way_out(made, cache):
    made()
    (folder,) = folders(cache)
    (folder / "training.bin").write_bytes(b"abc")
    with pytest.raises(ConfigError, match=f"{folder}.*remove that folder"):
        made()


TWO = """
from flops_fit.datasets import Text
source = Text({files!r}, 16, 0.2, 400, "bpe", {cache!r})
print(source.fingerprint, source.bytes_per_token)
"""


@pytest.mark.slow
def test_two_processes_at_once_make_one_cache(made, tmp_path, cache):
    code = TWO.format(files=str(tmp_path / "corpus"), cache=str(cache))
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert len(folders(cache)) == 1
    alone = made(cache_dir=tmp_path / "alone")
    assert said == [[alone.fingerprint, str(alone.bytes_per_token)]] * 2


class TestMistakes:
    def test_too_small_a_vocabulary_for_bpe(self, made):
        with pytest.raises(ConfigError, match="vocab_size is 256: bpe needs at least 257"):
            made(vocab_size=256)

    @pytest.mark.parametrize("name", ["gpt2.json", "a/b/gpt2", "folder/t.json"])
    def test_no_such_tokenizer(self, made, name):
        with pytest.raises(ConfigError, match=r"which is no file: .*bpe .*null"):
            made(tokenizer=name)

    def test_no_tokenizer_of_this_name_on_the_hub(self, made, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConfigError, match=r"nobody/none, .* nor can .* from the Hugging Face"):
            made(tokenizer="nobody/none")

    def test_a_file_that_is_no_tokenizer(self, made, tmp_path):
        (tmp_path / "t.json").write_text('{"a": 1}')
        with pytest.raises(ConfigError, match=r"t\.json can't be read .*tokenizer\.json"):
            made(tokenizer=str(tmp_path / "t.json"))

    @pytest.mark.parametrize("kind", ["bpe", "saved"])
    def test_without_the_library(self, made, saved, texts, kind, monkeypatch, cache):
        tokenizer = "bpe" if kind == "bpe" else saved(byte_level(texts.values()))
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(ConfigError, match=r"pip install 'flops-fit\[text\]'"):
            made(tokenizer=tokenizer)
        assert folders(cache) == []

    def test_a_tokenizer_that_makes_nothing_of_the_text(self, made, saved):
        empty = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"§": 0}, merges=[]))
        with pytest.raises(ConfigError, match="no tokens of the training part"):
            made(tokenizer=saved(empty))

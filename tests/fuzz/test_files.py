"""Files of others, and files of ours with damage, are read as they were, or refused by name in one line."""

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import strategies as st
from lgbench.tasks._documents.squad import load_squad
from lgbench.tasks.omniglot.dataset import _decode
from PIL import Image
from safetensors.torch import save

from lgbench.errors import UserError
from lgbench.models import own_weights
from lgbench.models.hub_files import read_weights
from lgbench.models.pretrained import load_pretrained
from lgbench.report.strips import _read as read_strip
from lgbench.run import checkpoint
from lgbench.store import SCHEMA, Store, read
from lgbench.text.tokenizer import make_tokenizer

WORDS = st.sampled_from(["", "a", "the cat sat", "\ud800", "[/b]", "снег"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(WORDS, v, max_size=3),
    max_leaves=8,
)


def refused(call, *args):
    """What a reader gives, or None where it refuses in words."""
    try:
        return call(*args)
    except UserError as error:
        assert 0 < len(str(error)) < 5000
        return None


@st.composite
def other_values(draw, tree):
    """A JSON value in which some parts are missing, doubled or something else."""
    if draw(st.integers(0, 11)) == 0:
        return draw(JSON)
    if isinstance(tree, dict):
        kept = {name: value for name, value in tree.items() if draw(st.integers(0, 24))}
        return {name: draw(other_values(value)) for name, value in kept.items()}
    if isinstance(tree, list):
        return [draw(other_values(value)) for value in tree if draw(st.integers(0, 24))]
    return tree


def test_rows_with_damage_are_named_and_never_other_rows(fuzz, tmp_path, damaged):
    row = dict.fromkeys(SCHEMA.names) | {"cell": "cell", "status": "ok", "value": 0.5, "recipe": {"a": "1"}}
    path = Store(tmp_path).write("task", "cell", [row | {"item_values": [0.5, k]} for k in range(5)])
    whole, right = path.read_bytes(), read([tmp_path]).table

    def check(content):
        path.write_bytes(content)
        found = read([tmp_path])
        if content == whole:
            assert found.table == right
        else:
            assert list(found.unreadable) == [path] and found.table.num_rows == 0
            assert found.unreadable[path] and "\n" not in found.unreadable[path]

    fuzz(300, check, damaged(whole))


def test_tables_of_any_columns_are_no_rows(fuzz, tmp_path):
    path = tmp_path / "rows" / "task" / "cell.parquet"
    path.parent.mkdir(parents=True)
    column = st.sampled_from(
        [
            *([1, 2], ["a", None], ["cell", "cell"], [[1.0], []], [None, None], [{"x": 1}, None]),
            *([b"\xff", b""], [True, False], [10**18, -1], ["ok", "ok"]),
        ]
    )
    tables = st.dictionaries(st.sampled_from([*SCHEMA.names, "other", ""]), column, max_size=40)

    def check(columns, version):
        table = pa.table(columns).replace_schema_metadata({"lgbench_schema_version": version})
        pq.write_table(table, path)
        found = read([tmp_path])
        assert found.table.num_rows == 0 and (not columns or list(found.unreadable) == [path])

    fuzz(150, check, tables, st.sampled_from(["1", "2", "3", "4", "none", "99"]))


def squad_file():
    questions = [
        {"id": f"{a}{p}", "question": "Who sat?", "answers": [{"text": "the cat", "answer_start": 0}]}
        for a in range(1) for p in range(2)
    ]  # fmt: skip
    paragraphs = [{"context": f"the cat sat {p}", "qas": questions} for p in range(2)]
    return {"version": "v2.0", "data": [{"title": f"[/b] {a}", "paragraphs": paragraphs} for a in range(3)]}


def test_questions_of_any_form_are_read_or_refused(fuzz, tmp_path, damaged):
    path = tmp_path / "mine.json"
    text = json.dumps(squad_file())

    def check(content):
        path.write_bytes(content)
        found = refused(load_squad, str(path))
        assert found is None or found.source.encode()

    values = other_values(squad_file()).map(lambda tree: json.dumps(tree).encode())
    fuzz(250, check, st.one_of(damaged(text.encode()), values, st.just(b"[" * 100_000)))


def tokenizer_text():
    tokenizers = pytest.importorskip("tokenizers")
    from lgbench.text.tokenizer import _train_bpe

    assert tokenizers
    made = json.loads(_train_bpe(["the cat sat on the mat"] * 3)._backend.to_str())
    made["model"]["vocab"] = {k: v for k, v in made["model"]["vocab"].items() if v < 40 or len(k) > 1}
    return made


def test_tokenizer_files_of_any_form_are_read_or_refused(fuzz, tmp_path, damaged):
    made, path = tokenizer_text(), tmp_path / "tokenizer.json"

    def use(name):
        tokenizer = make_tokenizer(name, [])
        tokenizer.decode([*tokenizer.encode("the cat\n"), 10**6, 0])

    def check(content):
        path.write_bytes(content)
        refused(use, str(path))

    values = other_values(made).map(lambda tree: json.dumps(tree).encode())
    fuzz(250, check, st.one_of(damaged(json.dumps(made).encode()), values))


def archive(method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for image in range(20):
            png = io.BytesIO()
            Image.fromarray(np.zeros((105, 105), dtype=bool)).save(png, "png")
            file.writestr(f"images/Alphabet/character01/{image:02}.png", png.getvalue())
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_archives_with_damage_are_read_or_refused(fuzz, tmp_path, method, damaged):
    path = tmp_path / "images.zip"

    def check(content):
        path.write_bytes(content)
        found = refused(_decode, path)
        assert found is None or len(found[0]) == 20

    fuzz(100, check, damaged(archive(method)))


def test_pictures_with_damage_become_a_warning(fuzz, tmp_path, damaged):
    path, out = tmp_path / "cell.npz", io.BytesIO()
    truth = np.zeros((1, 4, 4), "float16")
    np.savez_compressed(out, truth=truth, reconstructions=truth[None], lengths=np.array([256]))

    def check(content):
        path.write_bytes(content)
        warnings = []
        assert (read_strip(path, warnings) is None) == bool(warnings)
        assert all("\n" not in warning for warning in warnings)

    fuzz(250, check, damaged(out.getvalue()))


def test_checkpoints_with_damage_are_never_other_weights(fuzz, tmp_path, capsys, damaged):
    path = tmp_path / "step-000000001.safetensors"
    checkpoint.save(path, {"a": torch.arange(4.0), "b": torch.ones(2, 2)}, {"step": 1})
    whole = path.read_bytes()

    def check(content):
        path.write_bytes(content)
        found = checkpoint.load(path)
        assert found is None or (content == whole and torch.equal(found[0]["a"], torch.arange(4.0)))
        capsys.readouterr()

    fuzz(300, check, damaged(whole))


CONFIG = {"model_type": "mamba", "hidden_size": 4, "num_hidden_layers": 1, "state_size": 2, "vocab_size": 8}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_weights_of_others_are_read_or_refused(fuzz, tmp_path, name, damaged):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    out = io.BytesIO()
    torch.save({"a": torch.ones(2, 2), "b": torch.arange(3)}, out)
    index = {"weight_map": {"a": "one.safetensors", "b": "../two.safetensors"}}
    whole = {
        "model.safetensors": save({"a": torch.ones(2, 2), "b": torch.arange(3)}),
        "pytorch_model.bin": out.getvalue(),
    }.get(name, json.dumps(index).encode())
    path = tmp_path / name

    def check(content):
        path.write_bytes(content)
        refused(read_weights, tmp_path)
        if name == "model.safetensors":
            refused(own_weights.keep, path)

    fuzz(150, check, damaged(whole))


def test_configurations_of_others_are_read_or_refused(fuzz, tmp_path, damaged):
    (tmp_path / "model.safetensors").write_bytes(save({"a": torch.ones(2, 2)}))

    def check(content):
        (tmp_path / "config.json").write_bytes(content)
        refused(load_pretrained, tmp_path)

    values = other_values(CONFIG).map(lambda tree: json.dumps(tree).encode())
    fuzz(200, check, st.one_of(damaged(json.dumps(CONFIG).encode()), values))

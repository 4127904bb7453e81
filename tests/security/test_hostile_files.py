"""Files from a stranger: each is first shown to be alive, then refused by every verb that reads it.

A canary is a directory that exists once the stranger's code has run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tiny import tiny, train

from cnnbench.cli.main import VERBS
from cnnbench.cli.main import run as cli
from cnnbench.data.readers.cifar import read_batch
from cnnbench.errors import DataError

READERS = ("evaluate", "predict", "resume", "weights")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run"), "model=softmax", "num_epochs=1")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    change_info(path, lambda info: info.update(status="interrupted"))
    Image.new("L", (16, 16)).save(tmp_path / "image.png")
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def change_info(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((run / "run.json").read_text())
    change(info)
    (run / "run.json").write_text(json.dumps(info))


def verb(name: str, run: Path) -> int:
    """Let one verb read the run; return its exit code."""
    arguments = {
        "evaluate": ["evaluate", str(run)],
        "predict": ["predict", str(run), str(run.parent / "image.png")],
        "resume": ["train", f"resume={run}"],
        "weights": [
            "train",
            *tiny(run.parent / "new", "model=softmax", f"model.weights={run}"),
        ],
    }
    return cli(arguments[name])


# What these read of a run is no checkpoint; a stranger's run may be listed, and is left alone.
LOOKERS: dict[str, tuple[str, ...]] = {
    "summary": ("summary", "RUN"),
    "compare": ("compare", "RUN"),
    "runs list": ("runs", "list", "ROOT"),
    "runs prune": ("runs", "prune", "RUN", "--yes"),
    "runs rm": ("runs", "rm", "ROOT", "--yes"),
    "features": ("features", "RUN", "--output", "ROOT/features"),
    "export": ("export", "RUN", "--to", "torch", "--output", "ROOT/exported.pt"),
}
NEW_VERBS = {"features", "export"}


def check_harmless(run: Path, canary: Path, err: pytest.CaptureFixture[str]) -> None:
    """Let every other verb see the run: it ends plainly, and nothing of the stranger's ran."""
    for name, words in LOOKERS.items():
        if words[0] in NEW_VERBS - VERBS.keys():
            continue
        locations = {"RUN": str(run), "ROOT": str(run.parent)}
        argv = [word.replace("ROOT", locations["ROOT"]) for word in words]
        assert cli([locations.get(word, word) for word in argv]) in (0, 2, 65), name
        text = err.readouterr().err
        assert "Traceback" not in text, name
        assert "a bug in" not in text, name
        assert not canary.exists(), name


def check_refused(run: Path, readers: tuple[str, ...], err: pytest.CaptureFixture[str]) -> None:
    for name in readers:
        assert verb(name, run) == 65, name
        text = err.readouterr().err
        assert text.startswith("cnnbench: "), name
        assert "Traceback" not in text
        assert "a bug in" not in text


class Call:
    """A pickle of it calls a function when it is loaded."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def _mkdir_code(canary: Path) -> str:
    return f"__import__('os').mkdir({str(canary)!r})"


PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "mkdir": lambda c: Call(os.mkdir, str(c)),
    "eval": lambda c: Call(eval, _mkdir_code(c)),
    "exec": lambda c: Call(exec, _mkdir_code(c)),
    "system": lambda c: Call(os.system, f"mkdir '{c}'"),
    "makedirs": lambda c: Call(os.makedirs, str(c)),
    "copytree": lambda c: Call(shutil.copytree, str(Path(__file__).parent), str(c)),
    "nested": lambda c: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(c)))),
}


def zipped(payload: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer)  # noqa: TID251
    return buffer.getvalue()


def legacy(payload: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=False)  # noqa: TID251
    return buffer.getvalue()


def naive_torch(content: bytes) -> None:
    torch.load(io.BytesIO(content), weights_only=False)  # noqa: TID251


CONTAINERS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "pickle": (pickle.dumps, pickle.loads),
    "torch": (zipped, naive_torch),
    "legacy": (legacy, naive_torch),
}


def fires(canary: Path, naive: Callable[[], object]) -> None:
    naive()
    assert canary.is_dir(), "the corpus must be alive"
    shutil.rmtree(canary)


def trust(run: Path, part: str, content: bytes) -> None:
    """Put a stranger's bytes in place of the checkpoint, hash and all."""
    file = run / "checkpoints" / "manifest.json"
    manifest = json.loads(file.read_text())
    name = f"epoch_0001{'.state' if part == 'state' else ''}.pt"
    (run / "checkpoints" / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest["saves"]["epoch_0001"][part] = {"sha256": digest, "bytes": len(content)}
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_in_a_checkpoint(
    payload: str, container: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump, naive = CONTAINERS[container]
    content = dump({"format": 1, "model": PAYLOADS[payload](canary)})
    fires(canary, lambda: naive(content))
    trust(run, "weights", content)
    check_refused(run, READERS, capsys)
    check_harmless(run, canary, capsys)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_in_a_training_state(
    payload: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = zipped({"format": 1, "train_state": PAYLOADS[payload](canary)})
    fires(canary, lambda: naive_torch(content))
    trust(run, "state", content)
    check_refused(run, ("resume",), capsys)
    check_harmless(run, canary, capsys)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_in_a_cifar_file(payload: str, protocol: int, canary: Path) -> None:
    content = pickle.dumps({b"data": PAYLOADS[payload](canary), b"labels": []}, protocol)
    fires(canary, lambda: pickle.loads(content))
    with pytest.raises(DataError) as caught:
        read_batch(content, "data_batch_1", 1)
    assert caught.value.exit_code == 66
    assert not canary.exists()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_in_a_cifar_folder(
    payload: str, packed: bool, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = pickle.dumps({b"data": PAYLOADS[payload](canary), b"labels": []}, 2)
    fires(canary, lambda: pickle.loads(content))
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(content)
    if packed:
        with tarfile.open(folder.parent / "cifar-10-python.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        shutil.rmtree(folder)
    for name in ("verify", "train"):
        words = ["data", "verify", "cifar10"] if name == "verify" else ["train", "data=cifar10"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("urllib.request.OpenerDirector.open", no_network)
            code = cli([*words, f"data.root={folder.parent}"])
        out, err = capsys.readouterr()
        assert code == 66 or (name == "verify" and "not a CIFAR-10 batch" in out), name
        assert "Traceback" not in err
    assert not canary.exists()


def no_network(*args: object, **keywords: object) -> None:
    raise OSError("no network in this test")


def _unsafe_yaml(text: str) -> object:
    return yaml.load(text, Loader=yaml.UnsafeLoader)


def _instantiate(text: str) -> object:
    import hydra.utils
    from omegaconf import OmegaConf

    tree = OmegaConf.create(text)
    node = tree.get("model", tree)
    if "hydra" in tree:
        node = tree.hydra.callbacks.evil
    return hydra.utils.instantiate(node)  # noqa: TID251


def _resolve(text: str) -> object:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("evil", os.mkdir, replace=True)
    try:
        return OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    finally:
        OmegaConf.clear_resolver("evil")


FRAGMENTS: dict[str, tuple[str, Callable[[str], object]]] = {
    "apply tag": ("seed: !!python/object/apply:os.mkdir ['CANARY']", _unsafe_yaml),
    "new tag": (
        "seed: !!python/object/new:str\n  state: !!python/object/apply:os.mkdir ['CANARY']",
        _unsafe_yaml,
    ),
    "eval tag": (
        "seed: !!python/object/apply:eval [\"__import__('os').mkdir('CANARY')\"]",
        _unsafe_yaml,
    ),
    "_target_": ("_target_: os.mkdir\npath: CANARY", _instantiate),
    "_target_ in a group": ("model: {_target_: os.mkdir, path: CANARY}", _instantiate),
    "callbacks": (
        "hydra: {callbacks: {evil: {_target_: os.mkdir, path: CANARY}}}",
        _instantiate,
    ),
    "resolver": ("seed: ${evil:CANARY}", _resolve),
    "resolver in a path": ("output_root: ${evil:CANARY}", _resolve),
    "resolver in a list": ("optimizer: {betas: ['${evil:CANARY}', 0.9]}", _resolve),
}


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_code_in_a_config_file(
    kind: str, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, naive = FRAGMENTS[kind]
    text = text.replace("CANARY", str(canary))
    fires(canary, lambda: naive(text))
    file = tmp_path / "config.yaml"
    file.write_text(text)
    for name in ("train", "summary"):
        settings = [f"output_root={tmp_path / 'out'}"] if name == "train" else []
        assert cli([name, "--config", str(file), *settings]) == 2, name
        assert "Traceback" not in capsys.readouterr().err
    # The same as a choice and a preset of a stranger's groups.
    group = tmp_path / "conf"
    for folder in ("model", "experiment"):
        (group / folder).mkdir(parents=True)
        (group / folder / "evil.yaml").write_text(f"# a stranger's\n{text}\n")
    for words in (
        ["train", "model=evil", f"output_root={tmp_path / 'out'}"],
        ["train", "experiment=evil", f"output_root={tmp_path / 'out'}"],
        ["train", "-m", "model=evil,softmax", f"output_root={tmp_path / 'out'}"],
        ["summary", "model=evil"],
        ["ls", "model"],
    ):
        code = cli([*words, "--config-dir", str(group)])
        assert code == 2 or (words[0] == "ls" and code == 0), words
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert "a bug in" not in err
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_target_", "os.mkdir"),
        ("seed", "${evil:CANARY}"),
        ("model", {"_target_": "os.mkdir", "path": "CANARY"}),
        ("hydra", {"callbacks": {"evil": {"_target_": "os.mkdir", "path": "CANARY"}}}),
    ],
    ids=["target", "resolver", "model", "callbacks"],
)
def test_code_in_a_foreign_run_json(
    key: str, value: Any, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(json.dumps(value).replace("CANARY", str(canary)))
    fragment = {key: value, **({"path": str(canary)} if key == "_target_" else {})}
    naive = _resolve if key == "seed" else _instantiate
    fires(canary, lambda: naive(json.dumps(fragment)))
    change_info(run, lambda info: info["config"].update(fragment))
    check_refused(run, ("evaluate", "resume"), capsys)
    check_harmless(run, canary, capsys)


def test_code_that_a_run_names(
    run: Path, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.py"
    file.write_text(f"import os\nos.mkdir({str(canary)!r})\n")

    def naive() -> None:
        spec = importlib.util.spec_from_file_location("net", file)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    fires(canary, naive)
    model = {"name": "custom", "path": f"{file}:Net", "args": {}}

    def name_code(info: dict[str, Any]) -> None:
        kept = {k: info["config"]["model"][k] for k in ("init", "init_layers", "weights")}
        info["config"]["model"] = {**kept, **model}

    change_info(run, name_code)
    weights = torch.load(run / "checkpoints/epoch_0001.pt", weights_only=True)  # noqa: TID251
    weights["network"] |= {"name": "custom", "args": {"path": f"{file}:Net", "args": {}}}
    trust(run, "weights", zipped(weights))
    for name in ("evaluate", "predict", "resume"):
        # The code's owner may name it, so this is a matter of use.
        assert verb(name, run) == 2, name
        assert "is not run" in capsys.readouterr().err
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../../victim", "/tmp/x", "epoch_0001/../../../victim", "..\\x"])
def test_a_name_in_a_manifest_that_leads_out(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run / "checkpoints"
    naive = os.path.normpath(os.path.join(directory, name.replace("\\", "/")))
    assert not naive.startswith(str(directory)), "the corpus must be alive"
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["saves"][name] = manifest["saves"]["epoch_0001"]
    file.write_text(json.dumps({**manifest, "best": name}))
    check_refused(run, READERS, capsys)


def test_a_link_in_a_run_is_removed_and_never_what_it_leads_to(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = run / "checkpoints" / "epoch_0009.pt"
    link.symlink_to(victim)
    assert link.read_text() == "precious", "the corpus must be alive"
    tmp = run / "run.json.tmp-1"
    tmp.symlink_to(victim)
    assert verb("resume", run) == 0
    assert victim.read_text() == "precious"
    assert not tmp.is_symlink()


GIANT_BYTES = 64 << 30


@pytest.mark.parametrize("key", ["in_channels", "num_classes", "image_size"])
@pytest.mark.parametrize("size", [10**9, 10**18, -1])
def test_giant_sizes_in_a_checkpoint(
    key: str, size: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(run / "checkpoints/epoch_0001.pt", weights_only=True)  # noqa: TID251
    weights["network"] |= {key: size}
    assert abs(weights["network"][key] - 16) > 1, "the corpus must be alive"
    trust(run, "weights", zipped(weights))
    check_refused(run, ("evaluate", "predict"), capsys)


@pytest.mark.parametrize("hidden", [[10**9], [10**6] * 40, [2**62]])
def test_giant_layers_in_a_checkpoint(
    hidden: list[int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(run / "checkpoints/epoch_0001.pt", weights_only=True)  # noqa: TID251
    facts = weights["network"]
    sizes = [facts["image_size"] ** 2, *hidden, facts["num_classes"]]
    needed = sum(4 * left * right for left, right in itertools.pairwise(sizes))
    assert needed > GIANT_BYTES, "the corpus must be alive"
    facts |= {"name": "mlp", "args": {"hidden": hidden}}
    trust(run, "weights", zipped(weights))
    check_refused(run, ("evaluate", "predict"), capsys)


@pytest.mark.parametrize("readers", [READERS])
def test_an_archive_bomb(
    readers: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO(zipped({"format": 1}))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(32 << 20))
    content = buffer.getvalue()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.read("archive/data/0")) > 500 * len(content), "must be alive"
    trust(run, "weights", content)
    check_refused(run, readers, capsys)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "metrics.jsonl",
        "predictions.npz",
        "checkpoints/manifest.json",
        "checkpoints/epoch_0001.pt",
        "checkpoints/epoch_0001.state.pt",
    ],
)
def test_a_pipe_or_a_device_in_place_of_a_file(
    name: str, kind: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")

    def hang(*args: object) -> None:
        raise AssertionError(f"{name}: a verb waited")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(60)
    try:
        for reader in READERS:
            assert verb(reader, run) in (0, 2, 65, 74), reader
            err = capsys.readouterr().err
            assert "Traceback" not in err, reader
            assert "a bug in" not in err, reader
        check_harmless(run, canary, capsys)
    finally:
        signal.alarm(0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_a_setting_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for words in (
        ["train", f"model.weights={pipe}", f"output_root={tmp_path / 'out'}"],
        ["train", "model=custom", f"model.path={pipe}:Net", f"output_root={tmp_path / 'out'}"],
        ["train", "--config", str(pipe), f"output_root={tmp_path / 'out'}"],
        ["summary", "--config", str(pipe)],
        ["train", "data=csv", f"data.root={pipe}", f"output_root={tmp_path / 'out'}"],
        ["train", "data=npz", f"data.root={pipe}", f"output_root={tmp_path / 'out'}"],
        ["train", "data=folder", f"data.root={pipe}", f"output_root={tmp_path / 'out'}"],
        ["predict", str(run), str(pipe)],
        ["predict", str(run), "/dev/zero"],
        ["features", str(run), str(pipe)],
        ["evaluate", str(run), "--without-duplicates", str(pipe)],
        ["evaluate", str(pipe)],
        ["compare", str(pipe)],
    ):
        assert cli(words) in (2, 66), words
        err = capsys.readouterr().err
        assert "a bug in" not in err
        assert "no such file" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", range(20))
def test_weights_that_are_any_bytes(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(seed)
    # Few different bytes, all of them opcodes, lead an unpickler furthest.
    letters = b"(]}qr\x85.)u0N\x80\x02a" if seed % 2 else bytes(range(256))
    file = tmp_path / "weights.pth"
    file.write_bytes(b"\x80\x02" * (seed % 3) + bytes(draw.choices(letters, k=200)))
    assert cli(["train", f"model.weights={file}", f"output_root={tmp_path / 'out'}"]) == 65
    err = capsys.readouterr().err
    assert "holds no weights" in err or "more than tensors" in err or "state dict" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("trick", ["a stride of zero", "many views"])
def test_tensors_larger_than_what_is_stored(
    trick: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(run / "checkpoints/epoch_0001.pt", weights_only=True)  # noqa: TID251
    part = torch.zeros(10_000)
    bombs = {
        "a stride of zero": {"0": torch.zeros(1).expand(1 << 28)},
        "many views": {str(number): part for number in range(100)},
    }
    model = bombs[trick]
    content = zipped({**weights, "model": model})
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.values())
    assert size > 20 * len(content), "the corpus must be alive"
    trust(run, "weights", content)
    check_refused(run, READERS, capsys)
    assert "larger than what it stores" in refusal(run, capsys)


def refusal(run: Path, err: pytest.CaptureFixture[str]) -> str:
    assert verb("evaluate", run) == 65
    return err.readouterr().err


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "a\x1b[31m", ""])
def test_a_network_name_that_leads_out_of_the_run(
    name: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path for path in run.parent.parent.rglob("*") if "features" not in path.parts}

    def rename(info: dict[str, Any]) -> None:
        info["config"]["model"]["name"] = info["model"]["name"] = name

    change_info(run, rename)
    for to in ("torch", "onnx"):
        assert cli(["export", str(run), "--to", to]) == 65
    check_harmless(run, canary, capsys)
    assert {path for path in run.parent.parent.rglob("*") if "features" not in path.parts} == before


def test_the_corpus_is_large_and_no_canary_is_left() -> None:
    num_pickles = len(PAYLOADS) * (len(CONTAINERS) + 1 + 3)
    assert num_pickles + len(FRAGMENTS) + 4 + 1 + 4 + 1 + 9 + 3 + 1 >= 40

"""From settings to checked configs: choices, keys, values, paths, files and sweeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer, read_file
from cnnbench.config.run_config import RunConfig, to_tree
from cnnbench.config.schema import ConfigError
from cnnbench.data import DATASETS, Facts, describe
from cnnbench.errors import UsageError
from cnnbench.sweeps.jobs import Job, expand

COMPOSER = Composer()


def composed(*settings: str, composer: Composer = COMPOSER) -> RunConfig:
    return single_config(composer, composer.parse(settings))


def jobs(*settings: str, composer: Composer = COMPOSER) -> tuple[Job, ...]:
    return expand(composer, composer.parse(settings)).jobs


def problems(*settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        composed(*settings)
    return str(caught.value).splitlines()


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image_folder")
    for name in ("cat", "dog", "owl"):
        (root / name).mkdir()
        for number in range(5):
            Image.new("RGB", (40, 30), (number, 0, 0)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def shapes(image_folder: Path) -> list[tuple[tuple[str, ...], Facts]]:
    """Return settings and facts of data sets, one of those alike in all that a network sees.

    How many classes there are is a matter of the last layer alone.
    """
    found = {}
    for data in COMPOSER.groups.choices("data"):
        # Rows of numbers are for other networks; the last two have the shapes of their files.
        if DATASETS[data].is_table or data in ("custom", "npz"):
            continue
        root = (f"data.root={image_folder}",) if data == "folder" else ()
        alone = composed(f"data={data}", *root).data
        facts = describe(data, image_folder, alone.args)
        shape = (alone.image_size, facts.in_channels)
        found.setdefault(shape, ((f"data={data}", *root), facts))
    return list(found.values())


@pytest.mark.parametrize("model", [m for m in COMPOSER.groups.choices("model") if m != "custom"])
def test_every_network_takes_every_data_set(
    model: str, shapes: list[tuple[tuple[str, ...], Facts]]
) -> None:
    import torch

    from cnnbench.models import create_model
    from cnnbench.training import launch as run

    assert len(shapes) > 1
    for number, (data, facts) in enumerate(shapes):
        config = composed(f"model={model}", *data)
        if not number:
            run.check(config)
        size, in_channels = config.data.image_size, facts.in_channels
        with torch.device("meta"):
            module = create_model(
                config.model.name,
                in_channels=in_channels,
                num_classes=facts.num_classes,
                image_size=size,
                args=config.model.args,
            )
            logits = module(torch.empty(2, in_channels, size, size))
        assert logits.shape == (2, facts.num_classes)


@pytest.mark.parametrize("group", ["augment", "optimizer", "scheduler", "debug", "experiment"])
def test_every_choice_passes_the_check(group: str) -> None:
    from cnnbench.training import launch as run

    for name in COMPOSER.groups.choices(group):
        data = "data=breast_cancer" if name == "sigmoid_mlp" else "data=fashion_mnist"
        brings_its_own = name == "hours_to_pass"
        run.check(composed(f"{group}={name}", *([] if brings_its_own else [data]), "device=cpu"))


@pytest.mark.parametrize("name", COMPOSER.groups.choices("study"))
def test_every_study_expands(name: str) -> None:
    assert len(jobs(f"study={name}")) > 1


def test_a_network_made_for_a_size_brings_it_and_the_user_wins() -> None:
    assert composed("model=alexnet").data.image_size == 97
    assert composed("model=alexnet", "data.image_size=65").data.image_size == 65
    assert composed("data=synthetic", "data.native_size=20").data.image_size == 20
    assert composed("data=cifar10").data.image_size == 32
    # Also where compositions come from memory, one after another.
    sizes = [job.config.data.image_size for job in jobs("data.image_size=8,9", "seed=0,1")]
    assert sizes == [8, 8, 9, 9]
    assert composed("model=alexnet").data.image_size == 97


def test_a_network_that_asks_for_a_rate_of_adam_gets_it_and_the_user_wins() -> None:
    assert composed("model=vgg19").optimizer.lr == 0.0001
    assert composed("model=vgg19", "optimizer=adam").optimizer.lr == 0.0001
    assert composed("model=vgg19", "optimizer.lr=0.002").optimizer.lr == 0.002
    assert composed("model=vgg19", "model.adam_lr=0.003").optimizer.lr == 0.003
    assert composed("model=vgg19", "optimizer=sgd").optimizer.lr == 0.01
    rates = [job.config.optimizer.lr for job in jobs("model=lenet,vgg16,vgg19,mlp")]
    assert rates == [0.001, 0.0003, 0.0001, 0.001]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("model=lnet", "model=lnet: unknown choice; did you mean 'lenet'? Expected alexnet, "),
        ("model=zzzz", "model=zzzz: unknown choice. Expected alexnet, "),
        ("model=[lenet]", "model=['lenet']: unknown choice"),
        ("model=../model/lenet", "model=../model/lenet: unknown choice"),
        ("model=null", "model=null: expected a choice"),
        ("model=", "model=: unknown choice"),
        ("model=lenet.yaml", "model=lenet.yaml: unknown choice; did you mean 'lenet'?"),
        ("model=VGG61", "model=VGG61: unknown choice; did you mean 'vgg16'?"),
        ("model=VGG", "did you mean one of vgg11, vgg13, vgg16, vgg19?"),
        ("data=Fashion-MNIST", "unknown choice; did you mean 'fashion_mnist'?"),
        ("optimizer=AdamW", "unknown choice; did you mean 'adamw'?"),
        ("optimizer=SGD", "unknown choice; did you mean 'sgd'?"),
        ("model=-", "model=-: unknown choice. Expected alexnet, "),
        ("optimizer.LR=1", "optimizer.LR: unknown key; did you mean 'optimizer.lr'?"),
        ("device.precision=BF16", "did you mean 'bf16'?"),
        ("num_epoch=3", "num_epoch: unknown key; did you mean 'num_epochs'?"),
        ("+num_epoch=3", "num_epoch: unknown key; did you mean 'num_epochs'?"),
        ("++optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean 'optimizer.lr'?"),
        ("+_target_=os.system", "_target_: unknown key"),
        ("+model._target_=os.system", "model._target_: unknown key"),
        ("batch_size=8", "batch_size: unknown key; did you mean 'data.batch_size'?"),
        ("optimiser.lr=1", "optimiser.lr: unknown key; did you mean 'optimizer.lr'?"),
        ("model.image_size=8", "model.image_size: unknown key; did you mean 'data.image_size'?"),
        ("model.stem=small", "model.stem: unknown key; expected one of model.activation, "),
        ("data=3", "data=3: unknown choice"),
        ("optimizer", "optimizer: expected key=value"),
        ("=3", "=3: expected key=value"),
        ("checkpoint=3", "checkpoint: is a group of keys; expected one of checkpoint.keep_last"),
        ("~model", "model: a key cannot be removed; give it a value"),
        ("~seed=0", "seed: a key cannot be removed; give it a value"),
        ("~hydra/launcher=slurm", "hydra/launcher: a key cannot be removed; give it a value"),
        ("~optimizer.lr", "optimizer.lr: a key cannot be removed; give it a value"),
        ("~/runs", "~/runs: expected key=value"),
        ("model@data=lenet", "model@data: expected model=NAME"),
        ("model.name=mlp", "model.name: expected model=mlp, which brings its keys"),
        ("num_epochs=0", "num_epochs=0: expected a whole number >= 1"),
        ("num_epochs=3.0", "num_epochs=3.0: expected a whole number >= 1"),
        ("num_epochs='3'", "num_epochs='3': expected a whole number >= 1"),
        ("optimizer.lr=${oc.env:NONE,1e-3}", "optimizer.lr='0.001': expected a number > 0"),
        ("num_epochs=null", "num_epochs=null: expected a whole number >= 1"),
        ("num_epochs=???", "num_epochs: missing; expected a whole number >= 1"),
        ("num_epochs={a:1}", 'num_epochs={"a": 1}: expected a whole number >= 1'),
        ("num_epochs=[1]", "num_epochs=[1]: expected a whole number >= 1"),
        ("seed='${'", "seed: "),
        ("seed='${nope}'", "seed: Interpolation key 'nope' not found"),
        ("optimizer.lr=nan", "optimizer.lr=NaN: expected a number > 0"),
        ("optimizer.lr=inf", "optimizer.lr=Infinity: expected a number > 0"),
        ("data.shuffle=1", "data.shuffle=1: expected true or false"),
        ("device.precision=fp23", "expected one of auto, fp32, bf16, fp16; did you mean 'fp32'?"),
        ("data=folder", "data.root: missing; expected a path"),
        ("selection=first", "selection=first: expected one of val/accuracy, val/loss, last, test"),
        ("hydra.run.dir=/tmp/x", "hydra.run.dir: Hydra's own settings have no effect here; use o"),
        ("hydra.sweep.dir=x", "use output_root"),
        ("hydra.job.chdir=true", "Hydra's own settings have no effect here"),
        ("hydra/job_logging=none", "Hydra's own settings have no effect here"),
        ("model=lenet,mlp", "model=lenet,mlp: a list of choices sweeps over them; add -m"),
        ("seed=range(3)", "seed=0,1,2: a list of choices sweeps over them; add -m"),
        ("model=glob(vgg*)", "model=vgg11,vgg13,vgg16,vgg19: a list of choices"),
        ("seed=glob(*)", "glob() chooses among a group's names"),
        ("model=glob(zz*)", "matches none of alexnet, "),
        ("seed=interval(0,1)", "an interval is searched; add -m hydra/sweeper=optuna"),
        ("output_root=/a${oc.env:HOME}", "'${' cannot stand in a path"),
        ("sweep.name=a b(", "cannot be read"),
    ],
)
def test_one_mistake(setting: str, problem: str) -> None:
    found = problems(setting)
    assert len(found) == 1
    assert problem in found[0]


def test_all_mistakes_are_reported_together() -> None:
    found = problems("model=lnet", "optimizer.lrr=1", "seed=-1", "data.batch_size=x", "seed2=1")
    assert sorted(line.split(":")[0].split("=")[0] for line in found) == [
        "data.batch_size",
        "model",
        "optimizer.lrr",
        "seed",
        "seed2",
    ]
    assert len(problems("~model", "hydra.run.dir=x", "a@b=c")) == 3


def test_values_of_every_kind() -> None:
    config = composed(
        "model=alexnet",
        "model.width_multiplier=1/16",
        "model.hidden=[64,32]",
        "optimizer.lr=1e-3",
        "num_epochs=1_000",
        "+seed=3",
        "++log_every_steps=7",
        "sweep.name='3'",
        "data.limit=null",
        "seed=4",
    )
    assert config.model.args["width_multiplier"] == 0.0625
    assert config.model.args["hidden"] == (64, 32)
    assert (config.optimizer.lr, config.num_epochs) == (0.001, 1000)
    # Given twice, the last wins.
    assert (config.seed, config.log_every_steps, config.sweep.name) == (4, 7, "3")


@pytest.mark.parametrize("key", ["data.root", "output_root", "resume"])
@pytest.mark.parametrize(
    "text",
    [
        "/a b/c",
        "/a=b",
        "/a,b",
        "/a(b",
        "/é李",
        "/a'b\"c",
        "/{a: [b]}",
        "/a#b",
        "/$HOME",
        "C:\\x",
        " /a ",
    ],
)
def test_a_path_is_taken_as_it_stands(key: str, text: str) -> None:
    setting = COMPOSER.parse([f"{key}={text}"])
    assert setting[0].values == (str(Path(text).absolute()),)
    config = to_tree(composed("data=mnist", f"{key}={text}"))
    for part in key.split("."):
        config = config[part]
    assert config == str(Path(text).absolute())


def test_a_path_knows_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert composed("output_root=~/runs").output_root == "/home/somebody/runs"
    assert composed("data=mnist", "+data.root=~/a,b").data.root == "/home/somebody/a,b"
    assert composed("data.root=null").data.root is None


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory of the user's own, with all that a path may hold."""
    root = tmp_path / "my conf, é='({"
    for group, name, text in (
        ("model", "tiny", "# mine\nname: lenet\nactivation: tanh\npool: avg\n"),
        ("experiment", "quick", "# @package _global_\n# fast\nnum_epochs: 1\nseed: 7\n"),
        ("study", "two", "# two\nsettings: [num_epochs=1]\njobs: [[model=mlp], [model=lenet]]\n"),
    ):
        (root / group).mkdir(parents=True)
        (root / group / f"{name}.yaml").write_text(text)
    return root


def test_groups_of_the_users_own(own: Path) -> None:
    composer = Composer(own)
    assert composer.groups.choices("model")["tiny"] == "mine"
    config = composed("model=tiny", "experiment=quick", "seed=8", composer=composer)
    assert (config.model.name, config.model.args["activation"]) == ("lenet", "tanh")
    assert (config.num_epochs, config.seed) == (1, 8)
    assert [job.config.model.name for job in jobs("study=two", composer=composer)] == [
        "mlp",
        "lenet",
    ]
    with pytest.raises(ConfigError, match="study=two: is a list of jobs; add -m"):
        composed("study=two", composer=composer)
    assert "tiny" not in COMPOSER.groups.choices("model")


def test_a_yaml_that_changes_is_composed_anew(own: Path) -> None:
    # In one process, as in a notebook beside an editor, whose locks are links to nothing.
    (own / "model" / ".#tiny.yaml").symlink_to("me@here.1234:5")
    file = own / "experiment" / "quick.yaml"
    text = file.read_text()
    assert composed("experiment=quick", composer=Composer(own)).num_epochs == 1
    file.write_text(text.replace("num_epochs: 1", "num_epochs: 2"))
    assert composed("experiment=quick", composer=Composer(own)).num_epochs == 2
    (own / "model" / "tiny.yaml").write_text("# mine\nname: lenet\nactivation: relu\npool: avg\n")
    config = composed("model=tiny", "experiment=quick", composer=Composer(own))
    assert (config.model.args["activation"], config.num_epochs) == ("relu", 2)


@pytest.mark.parametrize(
    "text",
    [
        "_target_: os.system\nname: lenet\n",
        "name: lenet\nactivation: tanh\npool: avg\nsurprise: 1\n",
        "name: lenet\nactivation: tanh\npool: [\n",
        "name: lenet\nactivation: !!python/object/apply:os.getcwd []\npool: max\n",
        "defaults: [nowhere]\nname: lenet\n",
        "just text",
    ],
)
def test_bad_yaml_of_the_users_own(own: Path, text: str) -> None:
    (own / "model" / "bad.yaml").write_text(text)
    with pytest.raises(UsageError):
        composed("model=bad", composer=Composer(own))


def test_hydras_callbacks_in_a_strangers_yaml_do_not_run(own: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (own / "experiment" / "evil.yaml").write_text(
        "# @package _global_\n# evil\nhydra:\n  callbacks:\n    x:\n      "
        f"_target_: pathlib.Path.touch\n      self: {mark}\n"
    )
    composed("experiment=evil", composer=Composer(own))
    assert not mark.exists()


def test_a_saved_config_reads_back(tmp_path: Path) -> None:
    config = composed("model=alexnet", "data=cifar10", "model.width_multiplier=1/3", "seed=5")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_tree(config)))
    assert single_config(COMPOSER, read_file(file)) == config


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{now}: &{now} [{','.join(['*' + before] * 9)}]\n"
    for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: !!python/object/apply:os.system ['touch pwned']", "not readable as YAML"),
        (b"seed: !!python/name:os.system", "not readable as YAML"),
        (b"model: {_target_: os.system, name: lenet}", "model._target_: unknown key"),
        (b"hydra: {callbacks: {a: {_target_: os.system}}}", "hydra.callbacks.a._target_: unknown"),
        (BOMB.encode(), "YAML aliases are not read"),
        (b"seed: ${oc.env:HOME}", "seed: is an interpolation"),
        (b"model: {hidden: ['${oc.env:HOME}']}", "model.hidden: is an interpolation"),
        (b"'${oc.env:HOME}': 1", "is an interpolation"),
        (b"seed: 1\nseed: 2", "duplicate key seed"),
        (b"seed: !!binary aGk=", "expected a whole number"),
        (b"seed: 2020-01-01", "expected a whole number"),
        (b"hello", "unknown key"),
        (b"- 1", "expected the keys of a run config"),
        (b"a: [", "not readable as YAML"),
        (b"a: " + b"[" * 600 + b"]" * 600, "not readable as YAML"),
        (b"{a: " * 600 + b"1" + b"}" * 600, "not readable as YAML"),
        (b"\xff\xfe", "not readable as YAML"),
        (b"\x00", "not readable as YAML"),
        (b"a: " + b"x" * 70_000, "larger than 65,536 bytes"),
        (b"~: 1", "not readable as YAML"),
        (b"model: null", "model=null: expected a choice"),
    ],
    ids=range(21),
)
def test_a_hostile_config_is_refused_and_runs_nothing(
    content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        single_config(COMPOSER, read_file("config.yaml"))
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_config_that_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=str(path)):
            read_file(path)


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("seed=0,1,2", [0, 1, 2]),
        ("seed=range(3)", [0, 1, 2]),
        ("seed=range(1,8,3)", [1, 4, 7]),
        ("seed=choice(5,3)", [5, 3]),
        ("seed=sort(5,3)", [3, 5]),
        ("seed=4", [4]),
        ("optimizer.lr=range(0.25,1,0.25)", [0.25, 0.5, 0.75]),
        ("optimizer.betas=[0.5,0.9],[0.1,0.2]", [(0.5, 0.9), (0.1, 0.2)]),
        ("sweep.name='a,b',c", ["a,b", "c"]),
        ("data.limit=null,5", [None, 5]),
        ("model=glob(vgg1*)", ["vgg11", "vgg13", "vgg16", "vgg19"]),
        ("model=glob(vgg*,exclude=*9)", ["vgg11", "vgg13", "vgg16"]),
        ("model=choice(mlp,lenet)", ["mlp", "lenet"]),
    ],
)
def test_a_sweep_expands(setting: str, values: list[Any]) -> None:
    found: list[Any] = []
    for job in jobs(setting):
        node: Any = job.config
        for part in setting.partition("=")[0].split("."):
            node = node.args[part] if part == "betas" else getattr(node, part)
        found.append(node.name if setting.startswith("model") else node)
    assert found == values


@pytest.mark.parametrize("setting", ["seed=range(0,0)", "seed=range(3,1)"])
def test_a_sweep_over_nothing_is_a_mistake(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"seed=range\(.*: sweeps over no value"):
        jobs(setting, "model=mlp,lenet")


def test_equal_jobs_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = jobs("model=lenet,lenet,mlp", "seed=1,1", "optimizer.lr=.1,1e-1")
    assert [job.overrides for job in found] == [
        ("model=lenet", "seed=1", "optimizer.lr=0.1"),
        ("model=mlp", "seed=1", "optimizer.lr=0.1"),
    ]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "10 of the 12 jobs equal an earlier one" in said
    jobs("seed=0,1")
    assert not capsys.readouterr().err


def test_axes_multiply_the_last_one_fastest() -> None:
    names = [job.overrides for job in jobs("model=mlp,lenet", "num_epochs=1", "seed=0,1")]
    assert names == [
        ("model=mlp", "seed=0"),
        ("model=mlp", "seed=1"),
        ("model=lenet", "seed=0"),
        ("model=lenet", "seed=1"),
    ]


def test_the_mistakes_of_all_jobs_are_found_before_the_first_starts() -> None:
    with pytest.raises(ConfigError) as caught:
        jobs("seed=0,-1", "num_epochs=0,1,2", "model=lenet,lnet")
    assert "seed=-1" in str(caught.value)
    assert "(6 of the jobs)" in str(caught.value)
    assert "num_epochs=0: expected a whole number >= 1 (4 of the jobs)" in str(caught.value)
    assert "model=lnet" in str(caught.value)
    with pytest.raises(UsageError, match="resume"):
        jobs("resume=/run", "seed=0,1")


def test_a_sweep_is_found_again_when_it_grows() -> None:
    names = {
        expand(COMPOSER, COMPOSER.parse(["seed=0,1", *more])).name
        for more in ([], ["seed=0,1,2"], ["output_root=/elsewhere"])
    }
    assert len(names) == 1
    assert expand(COMPOSER, COMPOSER.parse(["seed=0,1", "num_epochs=3"])).name not in names
    assert expand(COMPOSER, COMPOSER.parse(["seed=0,1", "sweep.name=mine"])).name == "mine"


def test_a_thousand_jobs_take_seconds() -> None:
    started = time.process_time()
    sweep = jobs("model=lenet,mlp,softmax,nin", "seed=range(250)")
    assert len({(job.config.model.name, job.config.seed) for job in sweep}) == 1000
    assert time.process_time() - started < 15


def test_settings_leave_a_running_hydra_alone(tmp_path: Path, own: Path) -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        composed("model=nin_cifar", composer=Composer(own))
        assert GlobalHydra.instance().hydra is theirs


def test_names_of_ones_own_with_capitals_are_guessed_too(own: Path) -> None:
    for name in ("MyNet", "MyNet2"):
        (own / "model" / f"{name}.yaml").write_text("name: lenet\n")
    with pytest.raises(ConfigError, match="did you mean one of MyNet, MyNet2"):
        composed("model=myn", composer=Composer(own))
    with pytest.raises(ConfigError, match="did you mean 'MyNet'"):
        composed("model=my_net", composer=Composer(own))


@pytest.mark.parametrize(
    "text", ["defaults: [loop]", "# @package _global_\ndefaults: [{/model: lenet}]"]
)
def test_defaults_that_lead_back_to_themselves_are_said_in_a_sentence(own: Path, text: str) -> None:
    (own / "model" / "loop.yaml").write_text(text)
    with pytest.raises(UsageError, match="does not compose: a list of defaults leads back"):
        composed("model=loop", composer=Composer(own))


@pytest.mark.parametrize("content", ["", "# nothing but this\n"])
def test_a_saved_config_without_a_key_is_not_taken_for_the_defaults(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UsageError, match="expected the keys of a run config"):
        read_file(tmp_path / "config.yaml")

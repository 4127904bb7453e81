"""What may be searched: from settings and YAML, checked before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnbench.config.compose import Composer
from cnnbench.config.sweeper import split_sweeper
from cnnbench.errors import CnnbenchError
from cnnbench.sweeps.search.space import Space, check_space, objective_of, read_space, space_hash

COMPOSER = Composer()
ENGINE = ("hydra/sweeper=optuna", "hydra.sweeper.num_trials=5")


def space(*words: str, composer: Composer = COMPOSER) -> Space:
    return read_space(composer, composer.parse(list(words)))


def objective(*words: str) -> str:
    sweeper, others = split_sweeper(COMPOSER.parse([*ENGINE, *words]))
    found = read_space(COMPOSER, others)
    assert sweeper is not None
    return objective_of(found, sweeper, check_space(COMPOSER, found))


def digest(*words: str) -> str:
    found = space(*words)
    return space_hash(found, check_space(COMPOSER, found)[0], "val/accuracy")


def test_the_forms_of_hydras_grammar() -> None:
    found = space(
        "optimizer.lr=tag(log, interval(1e-4, 1e-1))",
        "data.batch_size=int(tag(log, interval(8, 64)))",
        "optimizer.weight_decay=interval(0, 1)",
        "scheduler=choice(cosine, linear)",
        "model.norm=none,conv",
        "seed=range(3)",
    )
    assert [str(d) for d in found.dimensions] == [
        "optimizer.lr=tag(log,interval(0.0001,0.1))",
        "data.batch_size=tag(log,int(interval(8,64)))",
        "optimizer.weight_decay=interval(0,1)",
        "scheduler=choice(cosine,linear)",
        "model.norm=choice(none,conv)",
    ]
    assert found.seeds == (0, 1, 2)
    lr, batch, decay, scheduler, _ = found.dimensions
    assert (lr.value(0.0123456), batch.value(9), decay.value(0.5)) == (0.01235, 9, 0.5)
    assert lr.value(0.1 - 1e-12) <= 0.1
    assert scheduler.value("linear") == "linear"
    # Each text of it reads back to the same.
    assert [str(d) for d in space(*map(str, found.dimensions)).dimensions] == list(
        map(str, found.dimensions)
    )


def test_a_list_is_one_choice() -> None:
    [hidden] = space("model=mlp", "model.hidden=[9],[8,4]").dimensions
    assert hidden.value("[8,4]") == [8, 4]


def test_a_point_of_several_seeds_is_named_without_one() -> None:
    found = space("optimizer.lr=0.1,0.2", "seed=0,1")
    assert found.overrides({"optimizer.lr": 0.1}) == ("optimizer.lr=0.1",)
    assert found.overrides({"optimizer.lr": 0.1}, 0) == ("optimizer.lr=0.1", "seed=0")


@pytest.mark.parametrize("name", COMPOSER.groups.choices("search"))
def test_every_shipped_space_is_right(name: str) -> None:
    assert check_space(COMPOSER, space(f"search={name}"))


def test_the_command_line_wins_over_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(
        "# mine\nsettings: [model=mlp, num_epochs=2]\n"
        "space: {optimizer.lr: 'interval(0.1, 0.2)', seed: 'range(2)', "
        "optimizer.weight_decay: 'interval(0, 1)'}\n"
    )
    composer = Composer(tmp_path)
    found = space("search=mine", "num_epochs=3", "optimizer.lr=0.5", composer=composer)
    assert [d.key for d in found.dimensions] == ["optimizer.weight_decay"]
    assert found.seeds == (0, 1)
    config = check_space(composer, found)[0]
    assert (config.model.name, config.num_epochs, config.optimizer.lr) == ("mlp", 3, 0.5)
    assert config.evaluate_test is False


@pytest.mark.parametrize(
    "text", ["space: 3", "[]", "spaces: {}", "space: {a: [1]}", "\x00", "a: b: c"]
)
def test_a_yaml_that_is_no_space(text: str, tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(text)
    with pytest.raises(CnnbenchError, match="expected the keys settings"):
        space("search=mine", composer=Composer(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optimizer.lrr=interval(0.1,1)", "did you mean 'optimizer.lr'"),
        ("data.batch_size=interval(16,64)", r"write int\(interval\(16,64\)\)"),
        ("data.batch_size=int(interval(0,64))", "data.batch_size=0: expected a whole number >= 1"),
        ("data.batch_size=16,0", "data.batch_size=0"),
        ("optimizer.lr=interval(0,1)", "optimizer.lr=0.0: expected a number > 0"),
        ("scheduler.warmup_fraction=interval(0.1,2)", "scheduler.warmup_fraction=2"),
        ("data.val_fraction=interval(0.1,0.2)", "data.val_fraction: decides which images"),
        ("data.split_seed=0,1", "data.split_seed: decides which images"),
        ("data.num_folds=3 data.fold=0,1 optimizer.lr=0.1,0.2", "data.fold: decides which images"),
        ("data.fold=2 optimizer.lr=0.1,0.2", "data.fold=2: of how many"),
        ("tuning.trials=4 optimizer.lr=0.1,0.2", "a search counts its own"),
        ("seed=interval(0,9)", "never searched; expected seed=range"),
        ("optimizer.lr=0.1,0.2 seed=0,-1", "seed=-1"),
        ("model=lenet,mlp model.norm=none,conv", "model.norm=conv"),
        ("optimizer.lr=0.1,0.2 evaluate_test=true", "never read the test images"),
        ("optimizer.lr=0.1,0.2 selection=test", "evaluate_test=false leaves unread"),
        ("optimizer.lr=0.1,0.2 study=family", "does not go with a search"),
        ("optimizer.lr=0.1,0.2 resume=/a/run", "does not go with a search"),
        ("seed=0,1", "nothing to search"),
        ("search=lenett", "did you mean 'lenet'"),
        ("optimizer.lr=interval(1,0)", "LOW below HIGH"),
        ("optimizer.lr=tag(log,interval(0,1))", "above 0"),
        ("optimizer.lr=tag(ln,interval(1,2))", "unknown tag ln"),
    ],
)
def test_a_mistake_is_named(words: str, message: str) -> None:
    with pytest.raises(CnnbenchError, match=message) as caught:
        check_space(COMPOSER, space(*words.split()))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.num_trials=0"], "expected a whole number >= 1"),
        (["hydra.sweeper.num_trials=1,2"], "one for the whole search"),
        (["hydra.sweeper.num_trial=9"], "did you mean 'num_trials'"),
        (["hydra.sweeper.objective=test/accuracy"], "test images are for the network"),
        (["hydra.sweeper.sampler=grid"], "expected one of tpe, random"),
        (["hydra/sweeper=optunaa"], "did you mean 'optuna'"),
        (["hydra.sweeper.pruner=wilcoxon", "seed=range(4)"], "cannot act before the fourth"),
        (["hydra.sweeper.objective=val/r2"], "has no such metric; expected val/loss, val/accuracy"),
        (["data.val_fraction=0", "selection=last"], "no validation images"),
    ],
)
def test_a_mistake_of_the_search_is_named(words: list[str], message: str) -> None:
    with pytest.raises(CnnbenchError, match=message) as caught:
        objective("optimizer.lr=0.1,0.2", *words)
    assert caught.value.exit_code == 2


def test_what_is_searched_for() -> None:
    lr = "optimizer.lr=0.1,0.2"
    assert objective(lr) == "val/accuracy"
    assert objective(lr, "selection=last") == "val/accuracy"
    assert objective(lr, "selection=val/loss") == "val/loss"
    assert objective(lr, "hydra.sweeper.objective=val/loss") == "val/loss"
    assert objective(lr, "loss=mse", "data=diabetes", "model=linear") == "val/loss"
    assert objective(lr, "hydra.sweeper.pruner=wilcoxon", "seed=range(5)") == "val/accuracy"


@pytest.mark.parametrize("word", ["optimizer.lr=interval(0.1,1)", "search=lenet", ENGINE[1]])
def test_without_an_engine_it_is_asked_for(word: str) -> None:
    with pytest.raises(CnnbenchError, match="add hydra/sweeper=optuna"):
        split_sweeper(COMPOSER.parse([word]))


def test_another_space_has_another_hash() -> None:
    words = ("optimizer.lr=interval(0.1,1)", "model=lenet")
    same = digest(*words)
    # What decides no result may change, and what a default says may be said.
    assert digest(*words, "log_every_steps=7") == same
    assert digest(*words, "augment=none", "output_root=/x", "sweep.name=mine") == same
    others = [
        ("optimizer.lr=interval(0.1,2)", "model=lenet"),
        ("optimizer.lr=int(interval(1,2))", "model=lenet"),
        ("optimizer.lr=tag(log,interval(0.1,1))", "model=lenet"),
        (*words, "seed=range(2)"),
        (*words, "num_epochs=9"),
        (*words, "optimizer.weight_decay=0.1,0.2"),
        ("optimizer.lr=interval(0.1,1)", "model=lenet,mlp"),
    ]
    assert len({same, *(digest(*other) for other in others)}) == len(others) + 1


def test_a_fold_is_no_seed() -> None:
    found = space("seed=3,4", "data.num_folds=3", "data.fold=1", "optimizer.lr=0.1,0.2")
    assert found.seeds == (3, 4)
    assert {config.data.fold for config in check_space(COMPOSER, found)} == {1}

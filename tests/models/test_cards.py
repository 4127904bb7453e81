"""The page of networks is up to date, complete, and near what the papers say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnbench.config.compose import Composer
from cnnbench.config.run_config import ARGUMENTS
from cnnbench.models import MODELS, model_arguments
from cnnbench.models.cards import CARDS, measure, page

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
UNITS = {"": 1, "million": 1e6, "billion": 1e9}
STATED = [
    (name, quantity, text)
    for name, card in CARDS.items()
    for quantity, text in (("num_params", card.paper_params), ("macs", card.paper_macs))
    if text != "not stated" and "connections" not in text
]


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "python -m cnnbench.models.cards > docs/models.md"


def test_every_network_has_a_card_and_every_card_a_network():
    assert list(CARDS) == [name for name in CARDS if name in MODELS]
    assert set(CARDS) == set(MODELS)


@pytest.mark.parametrize(("name", "quantity", "text"), STATED)
def test_the_papers_form_has_about_the_papers_size(name, quantity, text):
    number, unit = re.match(r"([\d.,]+) ?(million|billion|)", text).groups()
    stated = float(number.replace(",", "")) * UNITS[unit]
    # Papers round, and some leave out biases or the last layer.
    assert getattr(measure(name), quantity) == pytest.approx(stated, rel=0.06)


@pytest.mark.parametrize("name", CARDS)
def test_what_undoes_a_departure_is_a_setting_that_changes_something(name):
    defaults = model_arguments(name)
    for departure in CARDS[name].departures:
        for setting in departure.undo.split():
            key, _, value = setting.partition("=")
            group, _, argument = key.partition(".")
            if group == "model" and argument in defaults:
                assert ("model", argument) in ARGUMENTS
                assert value != str(defaults[argument]).lower(), setting
            else:
                assert key in ("data.image_size", "model.init", "model"), setting
                assert key != "model" or value in Composer().groups.choices("model")
    assert CARDS[name].args.keys() <= defaults.keys()

"""What the course notes hold, fact by fact, each with the test that keeps it.

A row is a fact in words and the tests that would fail without it.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

import pytest

from cnnbench.config.compose import Composer

ROOT = Path(__file__).parent
GOLDENS = "models/test_model_goldens.py::test_params_and_macs"
FORMS = "models/test_course_forms.py::"
IDIOMS = "models/test_notes_idioms.py::"
FIGURES = "models/test_notes_figures.py::"
GOOGLENET = "models/test_googlenet.py::"
TORCHVISION = "models/test_torchvision_models.py::"
BLOCKS = "analysis/test_blocks.py::"

# Networks whose parameters and MACs at the notes' sizes are goldens.
NETWORKS = (
    *("softmax", "mlp", "basic_cnn", "inception_cnn", "cifar_quick", "lenet", "alexnet"),
    *("alexnet_small", "vgg11", "vgg13", "vgg16", "vgg19", "nin", "nin_cifar", "googlenet"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"),
    *("wide_resnet50_2", "densenet121", "mobilenet_v1", "mobilenet_v2"),
)
DATA = {
    "digits": ("data/test_table.py::test_digits_are_scikit_learns",),
    "fashion_mnist": (
        "data/test_published.py::test_fashion_mnist_comes_from_the_system_package",
        "data/test_published.py::test_fashion_mnist_agrees_with_torchvision",
    ),
    "mnist": ("data/test_published.py::test_published_constants_of_sets_that_are_not_at_hand",),
    "cifar10": ("data/test_cifar.py::test_both_layouts_of_both_pythons",),
    "cifar100": ("data/test_cifar.py::test_cifar100_takes_its_fine_labels",),
    "kmnist": ("data/test_letters.py::test_kmnist_is_torchvisions",),
    "emnist": ("data/test_letters.py::test_emnist_is_torchvisions_set_upright",),
    "custom": ("data/test_custom_data.py::test_a_training_and_a_test_part",),
    "npz": ("data/test_npz.py::test_axes_and_ranges_are_those_of_image_files",),
    "csv": ("data/test_rows.py::test_a_table_is_read",),
    "folder": ("data/test_folder.py::test_classes_and_order_are_those_of_image_folder",),
    "synthetic": ("data/test_table.py::test_synthetic_is_seeded_and_of_the_shape_asked_for",),
}

ROWS: dict[str, tuple[str, ...]] = {
    **{f"model={name}: parameters and MACs": (GOLDENS,) for name in NETWORKS},
    **{f"data={name}": tests for name, tests in DATA.items()},
    # 1. Networks
    "two streams of AlexNet have the published size": (
        "models/test_model_goldens.py::test_alexnet_in_two_streams_has_the_published_size",
    ),
    "VGG-11 at 96 pixels": ("models/test_model_goldens.py::test_vgg11_for_96_pixels",),
    "auxiliary heads' parameters": ("models/test_model_goldens.py::test_auxiliary_heads",),
    "auxiliary heads read 4a and 4d": (
        f"{GOOGLENET}test_aux_heads_read_4a_and_4d_and_average_to_4_by_4",
    ),
    "auxiliary heads are absent in an export": (
        "cli/test_export.py::test_auxiliary_heads_stay_behind",
    ),
    "GoogLeNet's arguments in all pairs": (
        f"{GOOGLENET}test_rows_cover_every_pair_of_values",
        f"{GOOGLENET}test_each_pair_of_arguments_trains",
    ),
    "norm after a block, without ReLU": (f"{GOOGLENET}test_norm_after_a_block_has_no_relu",),
    "factorized kernels in the named stages": (
        f"{GOOGLENET}test_factorize_changes_the_named_stages_only",
    ),
    "residual blocks of GoogLeNet": (f"{GOOGLENET}test_residual_block_adds_the_scaled_branches",),
    "ReLU after each convolution of the stem": (
        f"{GOOGLENET}test_stem_has_a_relu_after_each_convolution",
    ),
    "no ReLU on logits": (
        "models/test_models.py::test_logits_pass_through_no_relu_and_hooks_see_untouched_outputs",
    ),
    "the stride in the 1x1, and norms that begin at zero": (
        "models/test_models.py::test_stride_in_1x1_moves_the_stride",
        "models/test_models.py::test_zero_init_makes_each_block_its_shortcut",
    ),
    "torchvision's networks by name, its head replaced or appended": (
        f"{TORCHVISION}test_grey_images_and_any_number_of_classes",
        f"{TORCHVISION}test_published_weights_with_a_new_head_and_grey_images",
        f"{TORCHVISION}test_published_weights_with_the_head_appended_give_torchvisions_logits",
    ),
    "a frozen backbone": (f"{TORCHVISION}test_a_frozen_backbone_keeps_weights_and_statistics",),
    "the smallest image of each network": ("models/test_models.py::test_smallest_image",),
    "initial weights by name": ("models/test_init.py::test_spread",),
    "receptive fields of LeNet and AlexNet": (
        "geometry/test_trace.py::test_receptive_fields_of_lenet_and_alexnet",
    ),
    "cost comparisons of blocks": (f"{BLOCKS}test_costs", f"{BLOCKS}test_ratios_are_to_the_first"),
    "LeNet without padding at 32 pixels, and with batch norm": (f"{FORMS}test_lenet",),
    "an MLP with batch norm": (f"{FORMS}test_mlp_with_batch_norm",),
    "NiN's last ReLU": (f"{FORMS}test_nin_cifar_with_a_final_relu_cuts_its_logits_off_at_zero",),
    "heads of a 1x1 convolution and of an average": (
        f"{FORMS}test_heads_of_a_1x1_convolution_and_of_an_average_are_the_same_function",
    ),
    "dropout before VGG's hidden layers": (f"{FORMS}test_vgg_drops_before_its_hidden_layers",),
    "a ResNet's stem pool with ceil": (f"{FORMS}test_resnet_stem_pool_with_ceil_sees_no_padding",),
    "an asymmetric pair that pads first": (
        f"{FORMS}test_an_asymmetric_pair_that_pads_first_differs_at_the_borders_alone",
    ),
    "a dilated 3x3 sees 5": (f"{FORMS}test_dilation_leaves_out_pixels",),
    "the weight of auxiliary heads": (f"{IDIOMS}test_auxiliary_logits_train_with_their_weight",),
    "classes of the notes run, or are refused with what to write": (
        f"{IDIOMS}test_it_trains",
        f"{IDIOMS}test_it_is_refused_with_what_to_write",
    ),
    "printed: ResNet's stages": (f"{FIGURES}test_resnet_stages",),
    "printed: GoogLeNet's blocks": (f"{FIGURES}test_googlenet_blocks",),
    "printed: a maximum pool with ceil and floor": (
        f"{FIGURES}test_a_pool_with_ceil_and_with_floor",
    ),
    "printed: cross-entropy": (f"{FIGURES}test_cross_entropy",),
    "printed: the mean squared error": (f"{FIGURES}test_mean_squared_error",),
    "printed: a Sequential at 229 pixels": (f"{FIGURES}test_a_sequential_at_229_pixels",),
    "printed: 192.68 MB forward and backward": (f"{FIGURES}test_memory_of_the_first_stage",),
    "loss=bce: two classes by one logit": (
        "test_losses.py::test_one_logit_is_binary_cross_entropy",
        "test_losses.py::test_two_classes_train_with_one_logit",
    ),
    "loss=mse: a number": (
        "test_losses.py::test_numbers_are_scored_as_scikit_learn_scores_them",
        "data/test_rows.py::test_a_number_of_a_table",
    ),
    "printed: groups that do not divide": (
        f"{FIGURES}test_three_groups_of_four_channels_are_refused",
    ),
    # 2. Data
    "a fixed stratified fifth is the test part": (
        "data/test_folder.py::test_a_fixed_fifth_is_the_test_part",
    ),
    "batch size, shuffling, the last batch and workers act": (
        "training/test_trainer.py::test_every_loader_knob_acts_on_the_weights_or_not_as_it_should",
    ),
    "resizing agrees with torchvision's": (
        "data/test_transforms.py::test_resize_agrees_with_pillow_and_torchvision",
    ),
    "normalisation constants are those of the training images": (
        "data/test_published.py::test_shipped_normalisation_is_that_of_the_training_pictures",
    ),
    "inputs in [0, 1]": ("data/test_transforms.py::test_plain_inputs_are_fractions",),
    "rows of numbers: a table with a target column": (
        "data/test_rows.py::test_a_number_of_a_table",
        "data/test_rows.py::test_two_classes_of_an_own_table",
    ),
    "a data set of one's own": (
        "data/test_custom_data.py::test_a_training_and_a_test_part",
        "data/test_custom_data.py::test_code_that_a_run_names_is_never_run",
    ),
    "splits as loaders for one's own loop": (
        "training/test_loaded.py::test_each_iteration_is_an_epoch_of_a_run",
    ),
    "data show": ("cli/test_data.py::test_show_saves_a_row_of_pictures",),
    # 3. What a run does
    "numbers on screen, in files and in TensorBoard": (
        "training/test_trainer.py::test_metrics_have_their_words_and_places",
        "training/test_trainer.py::test_tensorboard_shows_the_same_numbers_the_images_and_the_graph",
    ),
    "durations as s, min or h": ("tracking/test_console.py::test_durations_are_s_min_or_h",),
    "[correct/total]": ("tracking/test_console.py::test_a_pipe_gets_one_plain_line_per_epoch",),
    "feature maps and filters": ("cli/test_features.py::test_files_board_and_answer",),
    "a checkpoint for each epoch": (
        "training/test_trainer.py::test_a_run_directory_holds_what_it_should",
    ),
    "devices side by side": ("analysis/test_bench.py::test_jobs_side_by_side",),
    "an image of any size and colour is predicted": (
        "cli/test_predict.py::test_any_size_and_colour",
    ),
    "a network loaded whole, or by weights": (
        "cli/test_predict.py::test_load_gives_a_module_ready_to_use",
        "models/test_foreign_weights.py::test_a_plain_state_dict_is_taken_whole",
    ),
    "a look at parameters": ("cli/test_summary.py::test_a_runs_tensors",),
    "layer by layer, with totals": ("cli/test_summary.py::test_lenet_layer_by_layer",),
    "receptive fields as gradients measure them": (
        "geometry/test_trace.py::test_receptive_field_is_what_gradients_reach",
    ),
    "translation and robustness of a trained network": (
        "analysis/evaluate/test_robustness.py::test_translation_is_by_whole_pixels_one_of_four_ways",
        "cli/test_evaluate.py::test_changed_pictures_are_measured_exactly",
    ),
    "augmentation": ("data/test_transforms.py::test_each_picture_is_cropped_at_its_own_place",),
    "the three questions: one command each": (
        "sweeps/test_study.py::test_a_study_differs_in_what_it_studies_alone",
        "sweeps/test_study.py::test_the_small_forms_run_through_to_the_table",
    ),
    "VGG at 224 against 96 pixels": ("sweeps/test_study.py::test_sizes_of_the_resolutions",),
    "parameters of five networks": (
        "sweeps/test_study.py::test_sizes_of_the_family",
        "models/test_model_goldens.py::test_parameters_on_grey_images_of_224_pixels",
    ),
    "the share of parameters in linear layers": (f"{BLOCKS}test_the_share_of_linear_layers",),
    "a report in LaTeX": ("cli/test_compare.py::test_markdown_and_latex",),
}


@cache
def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test_that_is_there(row: str) -> None:
    assert ROWS[row]
    for test in ROWS[row]:
        file, _, name = test.partition("::")
        assert name.startswith("test_")
        assert name in names_in(ROOT / file), test


def test_every_network_and_data_set_that_the_notes_name_has_a_row() -> None:
    """What is there beside them is ours: a small ResNet, one's own networks, torchvision's."""
    groups = Composer().groups
    assert {*groups.choices("model")} - {*NETWORKS} == {
        *("small_resnet", "linear", "custom", "torchvision")
    }
    assert {*NETWORKS} <= {*groups.choices("model")}
    assert groups.choices("data").keys() >= DATA.keys()


def test_every_network_of_a_row_is_among_the_goldens() -> None:
    goldens = json.loads((ROOT / "goldens" / "models.json").read_text())
    assert {row["model"] for row in goldens} >= {*NETWORKS}

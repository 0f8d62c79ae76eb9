from __future__ import annotations

from mammo_sae.passes import assign_passes, layers_of


def test_a_first_run_takes_all_layers_in_one_pass(tmp_path):
    assert assign_passes(["a", "b", "head"], tmp_path / "none") == dict.fromkeys(
        ["a", "b", "head"], "a+b+head"
    )


def test_the_answer_does_not_change_while_the_pass_is_being_written(tmp_path):
    before = assign_passes(["a", "b"], tmp_path)
    (tmp_path / "a+b").mkdir()
    assert assign_passes(["a", "b"], tmp_path) == before


def test_an_added_layer_gets_a_pass_of_its_own(tmp_path):
    (tmp_path / "a+b").mkdir()
    assert assign_passes(["a", "c", "b"], tmp_path) == {"a": "a+b", "b": "a+b", "c": "c"}
    (tmp_path / "c").mkdir()
    assert assign_passes(["a", "c", "b"], tmp_path) == {"a": "a+b", "b": "a+b", "c": "c"}


def test_a_removed_layer_or_another_order_changes_nothing(tmp_path):
    (tmp_path / "a+b+c").mkdir()
    assert assign_passes(["c", "a"], tmp_path) == {"a": "a+b+c", "c": "a+b+c"}


def test_a_layer_held_twice_is_read_from_the_pass_that_serves_most_layers(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b+a").mkdir()
    assert assign_passes(["a", "b"], tmp_path) == {"a": "b+a", "b": "b+a"}


def test_no_name_of_a_pass_is_longer_than_a_file_system_takes(tmp_path):
    layers = [f"blocks.{number}" for number in range(39)] + ["head", "pooled"]
    passes = assign_passes(layers, tmp_path)
    assert list(passes) == layers
    assert all(len(name) <= 200 for name in passes.values())
    assert [layer for name in dict.fromkeys(passes.values()) for layer in layers_of(name)] == layers
    for name in set(passes.values()):
        (tmp_path / name).mkdir()
    assert assign_passes(layers, tmp_path) == passes

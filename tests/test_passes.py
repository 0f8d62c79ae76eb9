from __future__ import annotations

from mammo_sae.passes import assign_passes


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

"""The entrance to the tasks: what it promises by name, it does."""

import inspect
import typing

import pytest

from minitransformer.tasks.pipeline import ALIASES, TASKS, pipeline
from minitransformer.tasks.running import Task


def test_every_task_is_known_by_its_own_name():
    assert [*TASKS] == sorted(TASKS)
    for name, task in TASKS.items():
        assert issubclass(task, Task)
        assert task.name == name
        assert f'"{name}"' in inspect.getdoc(pipeline)


def test_type_checkers_know_what_every_task_gives():
    *named, other = map(typing.get_type_hints, typing.get_overloads(pipeline))
    assert {typing.get_args(form["task"])[0]: form["return"] for form in named} == TASKS
    assert other["task"] is str


def test_another_word_for_a_task_is_none_of_the_tasks():
    for alias, name in ALIASES.items():
        assert alias not in TASKS
        assert name in TASKS
        assert f'"{alias}"' in inspect.getdoc(pipeline)


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(ValueError, match="'text-generaton'; did you mean 'text-generation'"):
        pipeline("text-generaton", tmp_path)

"YAML files: what is refused is named with its place, nothing is run, what is written reads back."

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roar_nb.core import ConfigError
from roar_nb.yamlfile import parse_value, parse_yaml, to_yaml


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\na: 2", "f.yml:2:1: found duplicate key"),
        ("a: {b: 1, b: 2}", "f.yml:1:11: found duplicate key"),
        ("a: [1", "f.yml:1:6"),
        ("a: b: c", "f.yml:1:5"),
        ("\ta: 1", "f.yml:1:1"),
        ("- 1", "keys with values"),
        ("7", "keys with values"),
        ("1: a", "f.yml:1:1.*text"),
        ("? [a]\n: b", "text"),
        ("a: *b", "undefined alias"),
        ("a: &a [*a]", "part of itself"),
        ("a: &a {b: *a}", "part of itself"),
        ("a: 1\n---\nb: 2", "f.yml:"),
        ("a: !!int x", "valid int"),
        ("a: !!bool x", "valid bool"),
        ("a: !mine x", "!mine is refused"),
        ("a: !!binary aGk=", "binary is refused"),
        ("a: !!set {b}", "set is refused"),
        ('a: "\\UFFFFFFFF"', "f.yml"),
        ("a: \x07", "f.yml"),
        ("[" * 5000, "nested"),
        ("a: " + "[" * 60 + "]" * 60, "nested"),
        ("a: " + "9" * 5000, "valid int"),
        ("a: {<<: 3}", "f.yml:1"),
        ("a: !!python/object/apply:os.path.join x", "f.yml:1:4"),
        ("a: !!python/object/apply:os.path.join []", "joined"),
        ("a: !!python/object/apply:os.path.join [b, 3]", "joined"),
        ("a: !!python/object/apply:os.path.join {args: [a]}", "f.yml:1:4"),
    ],
)
def test_yaml_that_is_refused(text, words):
    with pytest.raises(ConfigError, match="^f.yml") as e:
        parse_yaml(text, "f.yml")
    assert re.search(words, str(e.value))


def test_aliases_do_not_blow_up():
    lines = ["a0: &a0 [x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)
    ]
    with pytest.raises(ConfigError, match="too large"):
        parse_yaml("\n".join(lines))
    merges = ["a0: &a0 {x: 1}"] + [
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30)
    ]
    with pytest.raises(ConfigError, match="too large"):
        parse_yaml("\n".join(merges))


TAGS = [
    "python/object/apply:os.system",
    "python/object/apply:os.mkdir",
    "python/object/apply:pathlib.Path.touch",
    "python/object/new:os.mkdir",
    "python/name:os.mkdir",
    "python/module:antigravity",
    "python/object:os.mkdir",
    "python/object/apply:posixpath.join",
    "python/object/apply:os.path.joinn",
    "python/tuple",
    "python/str",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(
    "shape", ["!!{tag} [{arg}]", "!<tag:yaml.org,2002:{tag}> [{arg}]", "[{{b: !!{tag} {arg}}}]"]
)
def test_python_tags_never_run(tag, shape, tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(ConfigError, match=re.escape(f"!!{tag} is refused")) as e:
        parse_yaml("\na: " + shape.format(tag=tag, arg=mark), "f.yml")
    assert str(e.value).startswith("f.yml:2:")
    assert not mark.exists()


@pytest.mark.parametrize(
    "prefix",
    [
        "%TAG ! tag:yaml.org,2002:python/object/apply:\n--- !os.mkdir [{}]",
        "%TAG !e! tag:yaml.org,2002:python/object/\n--- {{a: !e!apply:os.mkdir [{}]}}",
    ],
)
def test_renamed_tags_never_run(prefix, tmp_path):
    with pytest.raises(ConfigError, match="os.mkdir is refused"):
        parse_yaml(prefix.format(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


def test_yaml_is_version_1_2():
    assert parse_yaml("on: no") == {"on": "no"}


def test_what_yaml_says():
    text = """
    out: &out runs
    path: !!python/object/apply:os.path.join [*out, !!python/object/apply:os.path.join [a, b], c]
    numbers: [1e-3, 1E5, -2.5e+3, 1.0, 10, 1_000]
    text: ['1e-3', 2024-01-01, e3, 1e, cuda:0]
    base: &base {a: 1, b: 2}
    both: {<<: *base, b: 3}
    nested: &nested {<<: *base, a: 5}
    again: {<<: *nested}
    """
    found = parse_yaml(text)
    assert found["path"] == os.path.join("runs", "a", "b", "c")
    assert found["numbers"] == [0.001, 100000.0, -2500.0, 1.0, 10, 1000]
    assert found["text"] == ["1e-3", "2024-01-01", "e3", "1e", "cuda:0"]
    assert found["both"] == {"a": 1, "b": 3} and found["again"] == {"a": 5, "b": 2}
    assert parse_yaml("") == parse_yaml("# nothing\n") == {}
    assert parse_value("1e-3") == 0.001 and parse_value("") is None and parse_value("a=b") == "a=b"


# --- writing

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=4), st.booleans())
@settings(deadline=None)
def test_what_is_written_reads_back(mapping, one_line):
    assert parse_yaml(to_yaml(mapping, one_line)) == mapping


def test_what_is_written_stands_in_order_and_in_full():
    shared = [1, 2]
    assert to_yaml({"b": shared, "a": shared}, one_line=True) == "{b: [1, 2], a: [1, 2]}\n"
    assert to_yaml({"b": {"c": None}, "a": "1e-3"}) == "b: {c: ~}\na: '1e-3'\n"


# --- anything at all

pieces = st.sampled_from(
    [
        "a: ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "!!python/object/apply:os.getcwd []",
        "!!int ",
        "!!float ",
        "!!str ",
        "!!map ",
        "!!seq ",
        "!!null ",
        "!!bool ",
        "\n",
        "  ",
        "|",
        ">",
        "'",
        '"',
        "? ",
        ": ",
        ", ",
        "---\n",
        "...\n",
        "%TAG ! x\n",
        "%YAML 1.1\n",
        "0b_",
        "1:30",
        "0x",
        "1e3",
        "=",
        "~",
        "\\U",
        "#",
        "\ufeff",
        "\t",
    ]
)


@given(st.text() | st.lists(pieces | st.text(max_size=3), max_size=20).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused(text):
    try:
        assert isinstance(parse_yaml(text), dict)
    except ConfigError:
        pass

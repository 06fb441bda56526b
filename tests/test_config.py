"""Configurations: later wins, everything is checked before work, every mistake is one sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from batch_cases import cli

from pipelines.config import ConfigError, as_dict, keys, parse_bytes, read_toml, resolve, sha256_of, to_toml
from pipelines.describe import config_template
from pipelines.methods import DEFAULT_METHOD, METHODS, find_method
from pipelines.radar_config import L1Config, PnpConfig, TvConfig


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_defaults_survive_toml(method):
    default = method.config()
    assert resolve(method.config, [("file", tomllib.loads(to_toml(default)))]) == default


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_key_is_documented(method):
    assert all(key.doc and key.expected for key in keys(method.config))


def test_later_files_win_and_assignments_win_over_files():
    first = ("a.toml", {"solver": {"alpha": 0.1, "max_iter": 3}, "seed": 4})
    second = ("b.toml", {"solver": {"alpha": 0.2}})
    config = resolve(L1Config, [first, second], ["solver.max_iter=5"])
    assert (config.solver.alpha, config.solver.max_iter, config.seed) == (0.2, 5, 4)


def test_last_part_of_a_key_is_enough_where_it_is_unique():
    assert resolve(L1Config, assignments=["alpha=0.5"]).solver.alpha == 0.5


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("grid.shape=[3, 4, 5]", (3, 4, 5)),
        ("noise.std=none", None),
        ("noise.std=2", 2.0),
        ("precision=double", "double"),
        ("precision='double'", "double"),
        ("solver.max_iter=7", 7),
    ],
)
def test_assigned_values_have_the_type_of_their_key(assignment, value):
    config: Any = resolve(L1Config, [("file", {"noise": {"std": 1.0}})], [assignment])
    for part in assignment.partition("=")[0].split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("tables", "assignments", "parts"),
    [
        ({}, ["alpa=1"], ["--set alpa=1", "unknown key alpa", "did you mean solver.alpha", "known keys: precision"]),
        ({"solver": {"alfa": 1}}, [], ["f.toml", "unknown key solver.alfa", "did you mean solver.alpha"]),
        ({"solvr": {"alpha": 1}}, [], ["f.toml", "unknown key solvr.alpha", "did you mean solver.alpha"]),
        ({}, ["alpha=abc"], ["--set alpha=abc", "solver.alpha", "expected a number > 0", "found 'abc'"]),
        ({"solver": {"alpha": "1"}}, [], ["f.toml", "solver.alpha", "expected a number", "found '1'"]),
        ({}, ["alpha=-1"], ["--set alpha=-1", "expected a number > 0", "found -1"]),
        ({}, ["alpha=nan"], ["expected a number", "found nan"]),
        ({}, ["alpha=true"], ["expected a number", "found True"]),
        ({}, ["max_iter=2.5"], ["expected a whole number >= 1", "found 2.5"]),
        ({}, ["max_iter=0"], ["expected a whole number >= 1", "found 0"]),
        ({}, ["kind=fista"], ["one of 'auto', 'projected', 'csalsa'", "found 'fista'"]),
        ({}, ["shape=[1,2]"], ["grid.shape", "a list of 3", "found [1, 2]"]),
        ({}, ["spacing_m=[0,1,1]"], ["grid.spacing_m", "a number > 0", "found [0, 1, 1]"]),
        ({}, ["alpha"], ["expected key=value"]),
        ({"solver": 3}, [], ["f.toml", "expected a table [solver]", "found 3"]),
        ({}, ["noise.std=1", "noise.epsilon=2"], ["[noise]", "found std and epsilon", "--set noise.std=1"]),
    ],
)
def test_mistakes_are_sentences(tables, assignments, parts):
    with pytest.raises(ConfigError) as caught:
        resolve(L1Config, [("f.toml", tables)], assignments, name="method l1")
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@dataclass(frozen=True)
class Place:
    """Args:
    origin: where, metres.
    """

    origin: tuple[float, float]
    name: str


@dataclass(frozen=True, kw_only=True)
class Free:
    """A stdlib dataclass, as the simulations have.

    Args:
        label, tag: two
            names.
    """

    label: str = "a"
    tag: str = "b"
    extra: Mapping[str, Any] = field(default_factory=dict)
    place: Place = Place((1.0, 2.0), "here")
    level: float | None = 30.0
    count: int

    def __post_init__(self) -> None:
        if self.label == "bad":
            raise ValueError("label: expected anything but bad")


def test_plain_dataclasses_are_configurations_too():
    config = resolve(
        Free, [("f", {"extra": {"n": 1}, "level": "none"})], ["extra.m=two", "place.name=there", "count=2"]
    )
    assert config == Free(extra={"n": 1, "m": "two"}, place=Place((1.0, 2.0), "there"), level=None, count=2)
    assert resolve(Free, [("f", tomllib.loads(to_toml(config)))]) == config
    assert {k.name: k.doc for k in keys(Free)}["tag"] == "two names."
    with pytest.raises(ConfigError, match="--set label=bad.*anything but bad"):
        resolve(Free, [], ["label=bad", "count=1"])
    with pytest.raises(ConfigError, match="count must be given"):
        resolve(Free)


def test_hash_is_of_values_alone():
    one = resolve(L1Config, [("a", {"seed": 1})], ["alpha=0.3"])
    other = resolve(L1Config, [("b", {"solver": {"alpha": 0.3}})], ["seed=1"])
    assert sha256_of(as_dict(one)) == sha256_of(as_dict(other))
    assert sha256_of(as_dict(one)) != sha256_of(as_dict(L1Config()))


@pytest.mark.parametrize(
    ("text", "size"), [("12G", 12 * 2**30), ("500M", 500 * 2**20), ("1.5GiB", 3 * 2**29), ("4096", 4096), ("2kb", 2048)]
)
def test_memory_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "12X", "G", "-1G", "0"])
def test_memory_sizes_refused(text):
    with pytest.raises(ConfigError, match="memory size"):
        parse_bytes(text)


def test_unreadable_toml(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read"):
        read_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"broken.toml: expected TOML"):
        read_toml(broken)


def test_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean backprojection.*known methods"):
        find_method("backprojecton")


@pytest.mark.parametrize("name", [*(m.full_name for m in METHODS), "mimo_radar", "tomography", "mri"])
def test_init_prints_toml_that_check_accepts(name, tmp_path):
    text = config_template(name)
    tomllib.loads(text)
    if name in DEFAULT_METHOD:
        return
    file = tmp_path / "c.toml"
    file.write_text(cli("config", "init", name).out)
    done = cli("config", "check", file)
    assert (done.status, done.out) == (0, f"{file}: fits method {name}\n")


@pytest.mark.parametrize("name", ["tv", "pnp"])
def test_one_name_two_modalities(name, tmp_path):
    plain, radar, other = (cli("config", "init", n).out for n in (name, f"mimo_radar:{name}", f"tomography:{name}"))
    inits = f"backcast config init tomography:{name} and backcast config init mri:{name}"
    assert f"of the same name elsewhere: {inits}\n" in plain
    assert tomllib.loads(plain) == tomllib.loads(radar) != tomllib.loads(other)
    assert tomllib.loads(other)["method"] == name
    file = tmp_path / "c.toml"
    file.write_text(f'method = "{name}"\nseed = 3\n')
    assert (
        cli("config", "check", file).out
        == f"{file}: fits method mimo_radar:{name} and tomography:{name} and mri:{name}\n"
    )
    file.write_text(f'method = "tomography:{name}"\n[solver]\nmax_iter = 7\n')
    assert cli("config", "check", file).out == f"{file}: fits method tomography:{name}\n"
    assert tomllib.loads(cli("config", "show", "-c", file).out)["solver"]["max_iter"] == 7


def test_the_sentence_is_that_of_the_method_that_knows_most_keys(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('method = "tv"\n[solver]\nweight = 1e-3\ntemporal_weigth = 1e-3\n[data]\nrings = "sorting"\n')
    done = cli("config", "check", file)
    assert done.status == 2
    assert "unknown key solver.temporal_weigth for method tomography:tv" in done.err
    assert tomllib.loads(cli("config", "show", "-m", "tv", "-s", "temporal_weight=0.1").out)["solver"]["weight"] == 3e-4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sonar:tv", "unknown modality sonar in sonar:tv; modalities with methods: mimo_radar, tomography"),
        ("tomography:l1", "method l1 takes mimo_radar, not tomography; methods for tomography: fbp"),
        ("tomography:tvv", "unknown method tomography:tvv; did you mean tv?"),
        (":", "unknown method :; known methods"),
    ],
)
def test_unknown_combinations_are_one_sentence(name, words):
    done = cli("config", "init", name)
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    with pytest.raises(ConfigError, match="takes tomography, not mimo_radar"):
        find_method("tomography:tv", "mimo_radar")


def test_show_prints_the_resolved_values(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('method = "tv"\n[tv]\nn_iter = 3\n')
    shown = tomllib.loads(cli("config", "show", "-c", file, "-s", "alpha=0.25").out)
    assert shown["method"] == "tv"
    assert (shown["tv"]["n_iter"], shown["solver"]["alpha"]) == (3, 0.25)
    assert shown["solver"]["max_iter"] == TvConfig().solver.max_iter


def test_check_says_what_is_wrong(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('method = "pnp"\n[denoiser]\nfiel = "x"\n')
    done = cli("config", "check", file)
    assert done.status == 2
    assert "unknown key denoiser.fiel" in done.err
    assert "did you mean denoiser.file" in done.err


def test_denoiser_table_is_only_where_a_denoiser_is_taken():
    assert {m.name for m in METHODS if m.takes_denoiser} == {
        m.name for m in METHODS if any(k.path[0] == "denoiser" for k in keys(m.config))
    }
    assert PnpConfig().denoiser.file == "radar-3d-fast"

"""The study file: its schema, its paths, its faults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from axoloci.errors import InputError
from axoloci.io.genotype_files import genotype_set
from axoloci.study import (
    UDIP_FA,
    EncoderSettings,
    parse_settings,
    read_study,
    step_settings,
    whole_path,
)
from axoloci.tasks.encoder import kernel


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_study__paths_start_at_the_file(tmp_path: Path) -> None:
    settings = read_study(
        write(
            tmp_path,
            'out = "out"\nbids = "/data/bids"\ngenotypes = "chr"\n'
            '[normalize]\ntemplate = "t.nii"\n[encoder]\nchannels = [8, 16]\n',
        )
    )
    assert settings.out == tmp_path / "out"
    assert settings.bids == Path("/data/bids")
    assert settings.genotypes == tmp_path / "chr"
    assert settings.normalize.template == tmp_path / "t.nii"
    assert settings.encoder.channels == (8, 16)
    assert settings.dti.max_bval is None


def test_parse_settings__genotypes_by_prefix_or_by_bed() -> None:
    for name in ("/data/chr1.phased", "/data/chr1.phased.bed"):
        content = {"out": "o", "bids": "b", "genotypes": name}
        genotypes = parse_settings(content, "x", Path("/")).genotypes
        assert genotypes is not None
        assert genotype_set(genotypes).data == Path("/data/chr1.phased.bed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('out = "o"\nbidz = "b"', "unknown key 'bidz'; did you mean 'bids'"),
        (
            'out = "o"\nbids = "b"\n[encoder]\nn_latent = 3',
            r"unknown key 'encoder\.n_latent'; did you mean 'n_latents'",
        ),
        ('out = "o"\nbids = "b"\n[encoder]\nepochs = "many"', r"'encoder\.epochs': .*integer"),
        ('out = "o"\nbids = "b"\n[encoder]\nepochs = 0', r"'encoder\.epochs': .*greater"),
        ('bids = "b"', "'out': Field required"),
        ('out = "o"', "name the source of the data, one of bids, scans"),
        ('out = "o"\nbids = "b"\nscans = "s"', "'bids' and 'scans': a cohort has one source"),
        ('out = "o"\nbids = "b"\n[train]\nfa = "a"\ntraits = "t"', r"\[train\]: 'fa' and 'traits'"),
        ('out = "o"\ntraits = "t"\n[train]\nbids = "b"', "cannot be compared"),
        ('out = "o"\nbids = "b"\n[gwas]\ncovariates = ["age"]', "'covariates' no table"),
        ("out = ", "cannot be read as a study file"),
        ('out = "o"\n[train]\nbidz = "b"', r"unknown key 'train\.bidz'; did you mean 'bids'"),
        ('out = "o"\n[discovery]\nfas = "b"', r"unknown key 'discovery\.fas'; did you mean 'fa'"),
        (
            'out = "o"\n[replication]\ngenotype = "g"',
            r"unknown key 'replication\.genotype'; did you mean 'genotypes'",
        ),
        ('out = "o"\nbids = 3', r"'bids': .*path.*, found 3"),
        ('out = "o"\nbids = "b"\n[dti]\nmax_bval = 1', r"'dti\.max_bval': .*greater than 50"),
        ('out = "o"\nbids = "b"\n[dti]\nmax_bval = 1e9', r"'dti\.max_bval': .*less than"),
        ('out = "o"\nbids = "b"\n[dti]\nkurtosis = "mk"', r"'dti\.kurtosis': .*'msdki', 'dki'"),
        (
            'out = "o"\nbids = "b"\n[normalize]\nvoxel_size = 0.4',
            r"voxel_size': .*0\.5, found 0\.4",
        ),
        ('out = "o"\nbids = "b"\n[normalize]\nvoxel_size = 11', r"voxel_size': .*equal to 10"),
        (
            'out = "o"\nbids = "b"\n[gwas]\ncovariates = "age"',
            r"'gwas\.covariates': write a list: \[\"age\"\]$",
        ),
        ('out = "o"\nbids = "b"\n[encoder]\nchannels = 8', r"channels': write a list: \[8\]$"),
        (
            'out = "o"\ngenotypes = ../x',
            r'study\.toml: .*line 2, column \d+\); text stands in quotes, as in key = "text"',
        ),
        ('out = "o"\nbids = "b"\n[encoder]\nchannels = [8, 0]', r"channels\.1': .*equal to 1"),
        ('out = "o"\nbids = "b"\n[encoder]\nprecision = "half"', r"precision': .*'bfloat16'"),
        ('out = "o"\nbids = "b"\n[encoder]\nudip_fa = "x"', r"encoder\.udip_fa': .*boolean"),
        ('out = "o"\nbids = "b"\n[encoder]\ntensorboard = "d"', r"tensorboard': .*boolean"),
        ('out = "o"\nbids = "b"\n[normalize]\ndtype = "int8"', r"normalize\.dtype': .*'uint8'"),
        (
            'out = "o"\nbids = "b"\n[linear]\natlas = "a.nii"\nvariance = 0.5\nbandwidth = 3',
            r"'linear': .*leave out variance and bandwidth, or atlas",
        ),
        (
            'out = "o"\nbids = "b"\n[encoder]\nudip_fa = true\n[gwas]\nexport = ["latent_128"]',
            "no trait 'latent_128'; the latents are latent_000 to latent_127",
        ),
        ('out = "o"\nbids = "b"\n[encoder]\nbatch_size = 1', r"batch_size': .*equal to 2"),
        ('out = "o"\nbids = "b"\n[genetics]\np_threshold = 0', r"p_threshold': .*greater than 0"),
        ('out = "o"\nbids = "b"\nmin_participants = 1', "min_participants': .*equal to 2"),
        (
            'out = "o"\nbids = "b"\n[encoder]\nn_latents = 8\n[gwas]\nexport = ["latent_999"]',
            "no trait 'latent_999'; the latents are latent_000 to latent_007",
        ),
        ('out = "o"\nbids = "b"\n[gwas]\nexport = ["latent_1"]', "no trait 'latent_1'"),
        ('out = "o"\nbids = "b"\n[gwas]\ncategorical = ["site"]', "'covariates' no table: site"),
        (
            'out = "o"\nbids = "b"\ncovariates = "c"\n[gwas]\ncovariates = []\n'
            'categorical = ["site"]',
            "'gwas.categorical' names site, which 'gwas.covariates' does not",
        ),
        (
            'out = "o"\nbids = "b"\n[gwas]\nmodel = "age +"',
            r"'gwas\.model': .*formula 'age \+': Operator",
        ),
        (
            'out = "o"\nbids = "b"\n[gwas]\nmodel = "fa ~ age"',
            r"'gwas\.model': .*holds a ~; write the covariates alone",
        ),
        (
            'out = "o"\nbids = "b"\ncovariates = "c"\n[gwas]\nmodel = "age"\ncovariates = ["sex"]',
            "'gwas.model' and 'gwas.covariates' both name the covariates",
        ),
        (
            'out = "o"\nbids = "b"\n[gwas]\nmodel = "age + PC1"',
            "'gwas.model' names columns, but 'covariates' no table: age$",
        ),
        (
            'out = "o"\nbids = "b"\n[gwas]\nn_pcs = 2\nmodel = "PC1:PC3"',
            "'gwas.model' names columns, but 'covariates' no table: PC3; components are made as "
            r"far as n_pcs = 2 in \[gwas\] says$",
        ),
        (
            'out = "o"\nbids = "b"\ncovariates = "c"\n[gwas]\nmodel = "age"\n'
            'categorical = ["site"]',
            "'gwas.categorical' names site, which 'gwas.model' does not",
        ),
        (
            'out = "o"\nbids = "b"\n[gwas]\nmixed_model_extract = "v"',
            "'gwas.mixed_model_extract' is of use with mixed_model = true only",
        ),
        ('out = "o"\nbids = "b"\n[gwas]\nmin_maf = 0.6', r"min_maf': .*equal to 0\.5"),
        ('out = "o"\nbids = "b"\n[gwas]\nwinsorize = 0', r"winsorize': .*greater than 0"),
        ('out = "o"\nbids = "b"\n[gwas]\nrank_normal = true', r"rank_normal': .*'residuals'"),
    ],
)
def test_read_study__faults_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_study(write(tmp_path, text))


def test_parse_settings__lists_all_problems_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_settings({"bids": "b", "gwas": {"pcs": 3}, "dti": {"method": "wls"}}, "x", Path())
    message = str(caught.value)
    assert "'out'" in message
    assert "gwas.pcs" in message
    assert "dti.method" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"fa": "f"}, "'gwas.traits' names columns of a table of traits, and this study makes its"),
        ({"traits": "t"}, "'gwas.export' names age, which 'gwas.traits' does not; add it there"),
    ],
)
def test_parse_settings__names_traits_that_there_will_not_be(
    content: dict[str, str], words: str
) -> None:
    gwas = {"traits": ["height", "weight"], **({"export": ["age"]} if "traits" in content else {})}
    with pytest.raises(InputError, match=words):
        parse_settings({"out": "o", **content, "gwas": gwas}, "x", Path())


def test_step_settings__the_mixed_model_has_the_traits_and_covariates_alone() -> None:
    gwas = {
        "model": "age**2 + sex*C(site) + PC1:PC2",
        "categorical": ["site"],
        "winsorize": 4,
        "rank_normal": "residuals",
        "complete_traits": True,
        "region": ["7"],
        "extract": "tested.txt",
        "min_mac": 20,
        "device": "cpu",
    }
    content = {"out": "o", "traits": "t", "covariates": "c", "gwas": gwas}
    assert "trait" not in step_settings(parse_settings(content, "x", Path("/s")))["gwas"]
    content["gwas"] = gwas | {"traits": ["height", "weight"], "mixed_model": True}
    some = step_settings(parse_settings(content, "x", Path("/s")))
    assert some["gwas"]["trait"] == some["mixed_model"]["trait"] == ["height", "weight"]
    content["gwas"] = gwas
    settings = parse_settings(content, "x", Path("/s"))
    assert settings.gwas.columns == ("age", "sex", "site")
    chosen = step_settings(settings)
    assert chosen["gwas"] == {key: gwas[key] for key in gwas if key != "extract"}
    assert settings.gwas.variant_lists == {"extract": Path("/s/tested.txt")}
    assert "mixed_model" not in chosen
    gwas |= {"mixed_model": True, "mixed_model_extract": "independent.txt"}
    settings = parse_settings(content, "x", Path("/s"))
    assert settings.gwas.variant_lists["mixed_model_extract"] == Path("/s/independent.txt")
    mixed = step_settings(settings)
    assert mixed["gwas"] == chosen["gwas"]
    of_traits = ("model", "categorical", "winsorize", "rank_normal", "complete_traits")
    assert mixed["mixed_model"] == {key: gwas[key] for key in of_traits}
    content["gwas"] = {"covariates": ["age"], "n_pcs": 2, "mixed_model": True}
    listed = step_settings(parse_settings(content, "x", Path("/s")))
    assert listed["mixed_model"] == listed["gwas"] == {"covariate": ["age", "PC1", "PC2"]}


@pytest.mark.parametrize(
    ("gwas", "follows"),
    [
        ({}, ["signals", "heritability", "voxels"]),
        ({"mixed_model": True}, ["voxels"]),
        ({"rank_normal": "values"}, ["signals", "heritability"]),
        ({"winsorize": 4, "mixed_model": True}, []),
    ],
)
def test_follows__voxels_are_of_latents_as_they_are(
    gwas: dict[str, Any], follows: list[str]
) -> None:
    content = {"out": "o", "bids": "b", "gwas": gwas}
    assert parse_settings(content, "x", Path()).follows == follows
    content["genetics"] = {"heritability": False}
    without = parse_settings(content, "x", Path()).follows
    assert without == [name for name in follows if name != "heritability"]


def test_outside__is_named_by_the_files_and_needs_ld_scores() -> None:
    genetics: dict[str, Any] = {"outside": ["o/height.tsv.gz", "bmi.txt"], "ld_scores": "ld"}
    genetics["outside_n"] = {"bmi": 253000}
    content: dict[str, Any] = {"out": "o", "bids": "b", "genetics": genetics}
    settings = parse_settings(content, "x", Path("/s"))
    assert settings.genetics.outside == (Path("/s/o/height.tsv.gz"), Path("/s/bmi.txt"))
    assert settings.genetics.files == {"ld_scores": Path("/s/ld")}
    assert settings.follows == ["signals", "heritability", "ldsc", "voxels"]
    assert step_settings(settings)["ldsc"] == {"people": ["bmi=253000"]}
    other = {"genetics": genetics | {"other_build": True}}
    asked = step_settings(parse_settings(content | other, "x", Path("/s")))
    assert asked["ldsc"] == {"people": ["bmi=253000"], "other_build": True}
    assert not {"ld_scores", "outside", "outside_n", "other_build"} & set(
        step_settings(settings)["genetics"]
    )
    content["gwas"] = {"mixed_model": True}  # of summary statistics, whoever is related
    assert parse_settings(content, "x", Path("/s")).follows == ["ldsc", "voxels"]
    for change, said in (
        ({"ld_scores": None}, "name 'genetics.ld_scores'"),
        ({"outside": ["bmi.txt", "o/bmi.gz"]}, "several files of a trait bmi"),
        ({"outside": ["height.gz"]}, "names bmi, which no file of 'genetics.outside' is named by"),
    ):
        wrong = {key: value for key, value in (genetics | change).items() if value is not None}
        with pytest.raises(InputError, match=re.escape(said)):
            parse_settings(content | {"genetics": wrong}, "x", Path("/s"))


def test_step_settings__how_the_encoder_computes_reaches_the_commands() -> None:
    asked = {
        **{"udip_fa": True, "precision": "bfloat16", "recompute": True},
        **{"compile": True, "deterministic": True},
    }
    content: dict[str, Any] = {
        **{"out": "o", "fa": "f", "linear": {"atlas": "a.nii.gz"}},
        **{"normalize": {"dtype": "uint8"}, "encoder": {**asked, "tensorboard": True}},
    }
    settings = parse_settings(content, "x", Path("/s"))
    assert settings.atlas() == settings.linear.atlas == Path("/s/a.nii.gz")
    chosen = step_settings(settings)
    assert chosen["encoder"] == {**asked, "threads": 1}  # what is left out, the command decides
    assert chosen["linear"] == {"threads": 1}
    assert chosen["pack"] == {"dtype": "uint8"}
    assert chosen["normalize"] == {}  # so that no scan is registered again
    content["encoder"]["representations"] = ["autoencoder"]
    assert parse_settings(content, "x", Path("/s")).atlas() is None
    plain = step_settings(parse_settings({"out": "o", "fa": "f"}, "x", Path()))
    assert plain["pack"] == {}
    flags = dict.fromkeys(asked.keys() - {"precision"}, False)
    assert plain["encoder"] == {**flags, "threads": 1}


def test_decided__is_the_published_network_but_for_what_is_named() -> None:
    settings = EncoderSettings(udip_fa=True, epochs=30, batch_size=8).decided
    published = (kernel.UDIP_FA.n_latents, kernel.UDIP_FA.channels)
    assert (settings.n_latents, settings.channels) == published
    assert (settings.epochs, settings.batch_size) == (30, 8)
    assert EncoderSettings(epochs=30).decided == EncoderSettings(epochs=30)
    for key, value in UDIP_FA.items():
        assert getattr(kernel.UDIP_FA, key) == value


def test_cohorts__take_from_the_top_what_they_leave_out(tmp_path: Path) -> None:
    settings = read_study(
        write(
            tmp_path,
            'out = "o"\nfa_common = "maps"\ngenotypes = "g"\ncovariates = "c.tsv"\n'
            '[discovery]\nkeep = "d.tsv"\n'
            '[replication]\nfa = "other"\ngenotypes = "h.bed"\n',
        )
    )
    cohorts = settings.cohorts()
    assert list(cohorts) == ["discovery", "replication"]
    discovery, replication = cohorts.values()
    assert (discovery.out, replication.out) == (
        tmp_path / "o" / "discovery",
        tmp_path / "o" / "replication",
    )
    assert (discovery.start, replication.start) == ("encoder", "normalize")
    assert (discovery.keep, replication.keep) == (tmp_path / "d.tsv", None)
    assert (discovery.genotypes, replication.genotypes) == (tmp_path / "g", tmp_path / "h.bed")
    assert discovery.covariates == replication.covariates == tmp_path / "c.tsv"
    assert replication.fa_common is None


def test_cohorts__one_cohort_lies_in_the_study_itself(tmp_path: Path) -> None:
    settings = read_study(write(tmp_path, 'out = "o"\nbids = "b"\n'))
    assert {name: cohort.out for name, cohort in settings.cohorts().items()} == {
        "discovery": tmp_path / "o"
    }


def test_step_settings__no_covariates_are_none() -> None:
    content = {"out": "o", "bids": "b", "covariates": "c", "gwas": {"covariates": [], "n_pcs": 2}}
    gwas = step_settings(parse_settings(content, "x", Path()))["gwas"]
    assert gwas == {"covariate": ["PC1", "PC2"]}
    content["gwas"] = {"covariates": [], "n_pcs": 0}
    assert step_settings(parse_settings(content, "x", Path()))["gwas"] == {}
    content["gwas"] = {}
    assert step_settings(parse_settings(content, "x", Path()))["gwas"] == {}


def test_whole_path__has_no_way_up_and_keeps_other_links(tmp_path: Path) -> None:
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "there" / "deep")
    assert whole_path("a/../b", tmp_path) == tmp_path / "b"
    assert whole_path("link/x", tmp_path) == tmp_path / "link" / "x"
    assert whole_path("link/../x", tmp_path) == tmp_path / "there" / "x"
    assert whole_path("/a/b/../../c", tmp_path) == Path("/c")


def test_parse_settings__no_path_leads_up(tmp_path: Path) -> None:
    content = {"out": "../o", "fa": "../m/{participant_id}.nii.gz", "genotypes": "a/../g.bed"}
    settings = parse_settings(content, "test", tmp_path / "study")
    assert settings.out == tmp_path / "o"
    assert settings.fa == tmp_path / "m" / "{participant_id}.nii.gz"
    assert settings.genotypes == tmp_path / "study" / "g.bed"

"""The crate of a study and the facts for its methods section, from files as a study leaves them."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from axoloci.io.files import sha256, write_json
from axoloci.scans import Scan
from axoloci.study import StudyPaths, StudySettings, parse_settings
from axoloci.workflows import provenance
from axoloci.workflows.graph import group_jobs
from axoloci.workflows.participants import Cohort, Outcome
from axoloci.workflows.provenance import (
    PROFILES,
    package_versions,
    study_facts,
    write_crate,
    write_whole_crate,
)

PEOPLE = ("anna", "bert", "cleo")  # the last one failed
NOBODY = {"rule": 0, "user": 0}
TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+\d:.]*")

Study = tuple[StudySettings, StudyPaths, list[Scan], list[Outcome]]


def write_scan(scan: Scan, paths: StudyPaths, started: str) -> None:
    """What the participant workflow leaves of one finished scan."""
    stem = paths.out / scan.folder / scan.prefix
    bert = scan.prefix == "sub-bert"
    write_json(
        Path(f"{stem}_desc-preproc_dwi.json"),
        {
            "Settings": {"already_preprocessed": False, "mask": "given" if scan.mask else "made"},
            "steps": [{"name": name} for name in ("motion", *["denoising"] * bert)],
            "n_outlier_slices": 2 * bert,
            "n_eddy_corrected_volumes": 3 * bert,
        },
    )
    write_json(
        Path(f"{stem}_model-tensor_dwimap.json"),
        {
            "Settings": {"method": "WLS", "max_bval": 1500.0},
            "shells": [{"bval": 0.0, "n_volumes": 1}, {"bval": 1000.0, "n_volumes": 30}],
        },
    )
    write_json(Path(f"{stem}_space-template_registration.json"), {"Settings": {"voxel_size": 2.0}})
    for step in ("preprocess", "dti", "normalize"):
        write_record(paths.logs / scan.prefix, step, step, started=started, prefix=scan.prefix)


def write_record(
    folder: Path, job: str, step: str, *, exit_code: int = 0, started: str = "", prefix: str = ""
) -> None:
    """A job record."""
    out = folder.parent.parent
    write_json(
        folder / f"{job}.json",
        {
            "job": job,
            "image": f"native:{step}",
            "command": [
                *(f"axoloci-{step}", "run", "--dwi", f"/private/raw/{prefix}.nii.gz"),
                *("--out", str(out / "group" / job), "--max-bval", "1500"),
                *(["--prefix", prefix] if prefix else []),
            ],
            **({"started": started} if started else {}),
            "exit_code": exit_code,
            "seconds": 60.0,
            "cpu_seconds": 30.0,
            "max_rss_mb": 100.0,
        },
    )


def write_model(folder: Path, about: dict[str, Any]) -> None:
    """A model without weights."""
    header = json.dumps({"__metadata__": {"axoloci": json.dumps(about)}}).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def write_group(paths: StudyPaths) -> None:
    """What the group workflow leaves, as far as it is read here."""
    affine = [[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]
    store = {"attributes": {"sample_id": ["anna", "bert"], "affine": affine}}
    write_json(paths.group / "cohort.zarr" / "zarr.json", store)
    about = {
        "config": {"n_latents": 8, "channels": [8, 16], "epochs": 6, "seed": 0},
        "training": {"n_train": 90, "n_validation": 10, "train_sample_id": ["anna"]},
    }
    write_model(paths.results("autoencoder"), about)
    of_linear = {"bandwidth_mm": 3.2, "variance_kept": 0.8, "effective_rank": 12.5}
    about = {
        "config": {"n_latents": 8, "bandwidth": None},
        "training": {**about["training"], **of_linear, "gcv": {"3.2": 0.1}},
    }
    write_model(paths.results("linear"), about)
    write_json(
        paths.group / "sumstats" / "sumstats.json",
        {
            "traits": ["latent_000", "latent_001"],
            "n_samples": 100,
            "covariates": ["intercept", "age", "site=A", "site=B", "PC1", "PC2"],
            "inputs": ["latents.parquet", "covariates.tsv", "pcs.tsv"],
            "n_variants": 500,
            "variants": {"tested": 480, "monomorphic": 20},
        },
    )
    choices = {"formula": None, "winsorize": 4.0, "rank_normal": None, "loco": "of the ridge"}
    limits = {"min_maf": 0.01, "min_mac": 0, "max_missing": 1, "min_hwe_p": 0, "min_info": 0}
    lists = {"region": [], "extract": "of a list", "exclude": None}
    plan = {"plan_sha256": "x", "plan": choices | limits | lists}
    write_json(paths.group / "sumstats" / "plan.json", plan)
    write_json(paths.group / "loco" / "loco.json", {"n_variants": 300, "h2": [0.2, 0.4]})
    for name in ("autoencoder", "linear"):
        write_json(paths.results(name) / "loci.json", {"p_threshold": 5e-8})
        (paths.results(name) / "loci.tsv").write_text("locus\n1\n")
        (paths.results(name) / "latents.parquet").write_bytes(b"PAR1")
    learnt = [(f"train_{name}", "encoder") for name in ("autoencoder", "linear")]
    for job, step in (*learnt, ("gwas", "gwas"), ("pca", "gwas"), ("joint_linear", "x")):
        write_record(paths.logs / "group", job, step, started="2026-01-02T11:00:00+00:00")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study of three people of whom one failed, in a folder with a space in its name."""
    folder = tmp_path / "my study"
    (folder / "bids").mkdir(parents=True)
    for name in ("g.bed", "g.bim", "g.fam", "covariates.tsv", "template.nii.gz"):
        (folder / name).write_text(f"content of {name}")
    settings = parse_settings(
        {
            "out": "out",
            "bids": "bids",
            "genotypes": "g",
            "covariates": "covariates.tsv",
            "normalize": {"template": "template.nii.gz"},
            "gwas": {"n_pcs": 2, "export": ["latent_001"]},
        },
        "test",
        folder,
    )
    paths = StudyPaths(settings.out)
    raw = Path("/private/raw")
    scans = [Scan(f"sub-{who}", who, raw / who, raw / who, raw / who) for who in PEOPLE]
    for scan, hour in zip(scans[:2], (10, 9), strict=True):
        write_scan(scan, paths, f"2026-01-02T{hour:02}:00:00+00:00")
    write_record(
        paths.logs / "sub-cleo", "preprocess", "preprocess", exit_code=1, prefix="sub-cleo"
    )
    write_record(paths.logs / "sub-gone", "preprocess", "preprocess", prefix="sub-gone")
    outcomes = [Outcome(scan.prefix, scan.sample_id, "ok") for scan in scans[:2]]
    outcomes.append(Outcome("sub-cleo", "cleo", "failed", "truncated"))
    paths.scans.write_text("scan\tstatus\n")
    write_group(paths)
    return settings, paths, scans, outcomes


def graph(study: Study) -> dict[str, dict[str, Any]]:
    """Entities of the written crate by id."""
    settings, _, scans, outcomes = study
    written = write_crate(Cohort(settings, scans, outcomes), "native")
    return {entity["@id"]: entity for entity in json.loads(written.read_text())["@graph"]}


def references(value: Any) -> list[str]:
    """All ids that a value refers to."""
    if isinstance(value, list):
        return [found for part in value for found in references(part)]
    return [value["@id"]] if isinstance(value, dict) else []


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_write_crate__is_read_by_rocrate_with_its_profiles(study: Study) -> None:
    graph(study)
    crate = ROCrate(study[1].out)
    conforms = {entity.id for entity in crate.root_dataset["conformsTo"]}
    assert conforms == {url for url, _, _ in PROFILES}
    assert crate.mainEntity.id == "workflow/study.py"
    assert {"ComputationalWorkflow", "HowTo"} <= set(crate.mainEntity.type)
    assert "3 scans, 2 finished, 1 failed" in crate.root_dataset["description"]
    assert not list(study[1].out.rglob("*.tmp*"))


def test_write_crate__every_reference_resolves(study: Study) -> None:
    entities = graph(study)
    outside = ("https://w3id.org/ro/crate/1.1", "https://bioschemas.org/")
    for entity in entities.values():
        for name, value in entity.items():
            assert value is not None, f"{entity['@id']}: {name}"
            for target in references(value):
                assert target in entities or target.startswith(outside), f"{entity['@id']}: {name}"
    reached, todo = set(), ["ro-crate-metadata.json"]
    while todo:
        reached.add(todo[-1])
        todo = [
            *todo[:-1],
            *(
                target
                for target in references(list(entities[todo[-1]].values()))
                if target in entities and target not in reached
            ),
        ]
    assert set(entities) - reached == set()


def test_write_crate__has_what_the_provenance_profile_asks_for(study: Study) -> None:
    entities = graph(study)

    def of_type(name: str) -> list[dict[str, Any]]:
        return [entity for entity in entities.values() if name in many(entity["@type"])]

    (main,) = of_type("ComputationalWorkflow")
    tools = set(references(main["hasPart"]))
    steps = {step["@id"]: step for step in of_type("HowToStep")}
    assert set(references(main["step"])) == set(steps)
    actions = {action["@id"]: action for action in of_type("CreateAction")}
    for control in of_type("ControlAction"):
        step = steps[control["instrument"]["@id"]]
        assert step["workExample"]["@id"] in tools
        assert actions[control["object"]["@id"]]["instrument"] == step["workExample"]
    (organized,) = of_type("OrganizeAction")
    assert organized["result"]["@id"] == "#run"
    assert actions["#run"]["instrument"]["@id"] == main["@id"]
    assert len(references(organized["object"])) == len(steps) == len(actions) - 1
    assert set(references(entities["./"]["mentions"])) >= set(actions)
    for value in of_type("PropertyValue"):
        assert isinstance(value["value"], str)


def test_write_crate__checksums_and_sizes_are_those_of_the_files(study: Study) -> None:
    entities = graph(study)
    n_digests = 0
    for identifier, entity in entities.items():
        if "File" not in many(entity["@type"]):
            continue
        path = (
            Path(identifier.removeprefix("file://").replace("%20", " "))
            if identifier.startswith("file:")
            else study[1].out / identifier
        )
        assert int(entity["contentSize"]) == path.stat().st_size
        if "sha256" in entity:
            assert entity["sha256"] == sha256(path)
            n_digests += 1
        else:
            assert path.name == "g.bed"
            assert TIMES.fullmatch(entity["dateModified"])
    assert n_digests >= 12


def test_write_crate__large_files_go_by_size_and_time(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "CHEAP", 10)
    model = graph(study)["group/linear/model.safetensors"]
    assert "sha256" not in model
    assert TIMES.fullmatch(model["dateModified"])


def test_write_crate__a_kind_of_job_is_one_action(study: Study) -> None:
    entities = graph(study)
    job = entities["#job-preprocess"]
    assert job["name"] == "preprocess: 3 jobs"  # not that of a scan which the study has no more
    assert job["startTime"] == "2026-01-02T09:00:00+00:00"
    assert job["endTime"] == "2026-01-02T10:01:00+00:00"
    assert job["error"] == "1 of 3 jobs failed"
    assert job["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert job["identifier"] == "native:preprocess"
    assert entities["#job-preprocess-exit"]["value"] == "2 × 0, 1 × 1"
    assert entities["#job-preprocess-cpu_seconds"]["value"] == "90.0"
    assert job["description"] == (
        "axoloci-preprocess run --dwi <dwi> --out <out> --max-bval 1500 --prefix <prefix>"
    )
    gwas = entities["#job-gwas"]
    assert "--out group/gwas" in gwas["description"]
    assert {"group/sumstats/sumstats.json", "group/sumstats/"} == set(references(gwas["result"]))
    read = {Path(target).name for target in references(gwas["object"])}
    assert read == {"covariates.tsv", "g.bed", "g.bim", "g.fam", "latents.parquet", "loco"}
    latents = {f"group/{name}/latents.parquet" for name in ("autoencoder", "linear")}
    assert latents <= set(references(gwas["object"]))
    made = references(entities["#job-train_linear"]["result"])
    assert made == ["group/linear/model.safetensors"]


def test_write_crate__what_follows_the_loci_has_its_inputs(study: Study) -> None:
    settings, paths, scans, outcomes = study
    folder = paths.out.parent
    for name in ("p.bed", "p.bim", "p.fam", "genes.tsv", "tested.txt", "height.txt"):
        (folder / name).write_text(name)
    (folder / "ld").mkdir()
    for name in ("linear", "autoencoder"):
        of_ldsc = "ldsc/heritability.tsv"
        for file in ("regions.parquet", "genetic_covariance.npz", "voxels/index.tsv", of_ldsc):
            (paths.results(name) / file).parent.mkdir(exist_ok=True)
            (paths.results(name) / file).write_text("x")
        for job in ("loci", "signals", "heritability", "ldsc", "voxels", "voxelh2"):
            write_record(paths.logs / "group", f"{job}_{name}", "genetics")
    (paths.results("autoencoder") / "linearised.safetensors").write_text("x")
    for job, step in (("linearise_autoencoder", "encoder"), ("report", "report")):
        write_record(paths.logs / "group", job, step)
    genetics = settings.genetics.model_copy(
        update={
            **{"reference": folder / "p", "genes": folder / "genes.tsv"},
            **{"ld_scores": folder / "ld", "outside": (folder / "height.txt",)},
        }
    )
    gwas = settings.gwas.model_copy(update={"extract": folder / "tested.txt"})
    chosen = settings.model_copy(update={"genetics": genetics, "gwas": gwas})
    entities = graph((chosen, paths, scans, outcomes))

    def read(job: str) -> set[str]:
        return {
            target.split("/my%20study/")[-1]
            for target in references(entities[f"#job-{job}"]["object"])
        }

    panel, own = {"p.bed", "p.bim", "p.fam"}, {"g.bed", "g.bim", "g.fam"}
    assert read("loci_linear") == panel | {"genes.tsv", "group/sumstats/"}
    assert {Path(target).name for target in read("ldsc_linear")} == {"ld", "height.txt", "sumstats"}
    assert references(entities["#job-ldsc_linear"]["result"]) == [f"group/linear/{of_ldsc}"]
    with_lists = {"covariates.tsv", "tested.txt", "group/linear/loci.tsv"}
    assert read("signals_linear") == own | with_lists | {"group/linear/latents.parquet"}
    assert {"group/linear/model.safetensors"} == {
        name for name in read("voxels_linear") if name.endswith(".safetensors")
    }
    for job in ("voxels", "voxelh2"):
        assert "group/autoencoder/linearised.safetensors" in read(f"{job}_autoencoder")
        assert "group/autoencoder/model.safetensors" not in read(f"{job}_autoencoder")
    of_page = {"group/sumstats/", "group/linear/regions.parquet", "group/linear/voxels/index.tsv"}
    assert of_page | {f"group/linear/{of_ldsc}"} <= read("report")
    without = chosen.model_copy(update={"genetics": genetics.model_copy(update={"voxels": False})})
    entities = graph((without, paths, scans, outcomes))
    assert "#job-voxels_linear" not in entities
    assert "#job-heritability_linear" in entities


def test_write_crate__all_jobs_of_a_kind_failed(study: Study) -> None:
    for who in PEOPLE:
        write_record(study[1].logs / f"sub-{who}", "preprocess", "preprocess", exit_code=-9)
    job = graph(study)["#job-preprocess"]
    assert job["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert "startTime" not in job  # not in these records, so not told


def test_write_crate__names_no_person(study: Study) -> None:
    entities = graph(study)
    text = json.dumps(entities)
    for who in PEOPLE:
        assert who not in text
    assert "scans.tsv" in entities
    assert "not for sharing" in entities["group/linear/latents.parquet"]["description"]


def test_write_crate__holds_settings_and_versions(study: Study) -> None:
    entities = graph(study)
    assert entities["#setting-gwas.n_pcs"]["value"] == "2"
    assert entities["#setting-gwas.export"]["value"] == '["latent_001"]'
    assert entities["#package-pydra"]["softwareVersion"] == package_versions("native")["pydra"]
    assert "dipy" not in package_versions("docker")  # what this machine has did not run


def test_write_crate__jobs_of_earlier_settings_are_left_out(study: Study) -> None:
    settings, paths, scans, outcomes = study
    write_record(paths.logs / "group", "export_latent_000", "gwas")
    write_record(paths.logs / "group", "report-shareable", "report")
    without = settings.model_copy(
        update={"gwas": settings.gwas.model_copy(update={"n_pcs": 0, "export": ()})}
    )
    entities = graph((without, paths, scans, outcomes))
    assert "#job-pca" not in entities
    assert "#job-export_latent_000" not in entities
    assert "#job-report-shareable" not in entities  # its page is not there any more


def test_write_crate__again_is_equal_but_for_times(study: Study) -> None:
    graph(study)
    path = study[1].out / provenance.CRATE
    first = path.read_text()
    graph(study)
    assert TIMES.sub("", path.read_text()) == TIMES.sub("", first)


def test_write_crate__before_anything_ran(tmp_path: Path) -> None:
    settings = parse_settings({"out": "out", "bids": "bids"}, "test", tmp_path)
    (tmp_path / "bids").mkdir()
    entities = graph((settings, StudyPaths(settings.out), [], []))
    assert "#run" in entities
    assert "startTime" not in entities["#run"]


def test_write_crate__what_another_cohort_made(study: Study) -> None:
    """An encoder and loci of others are inputs, told by the commands that read them."""
    settings, paths, scans, outcomes = study
    other = paths.out.parent / "train" / "group"
    other.mkdir(parents=True)
    (paths.results("autoencoder") / "model.safetensors").rename(other / "model.safetensors")
    (other / "loci.tsv").write_text("locus\n")
    (paths.results("linear") / "replication.tsv").write_text("locus\n")
    for job, option, name in (
        ("encode_autoencoder", "--model", "model.safetensors"),
        ("replicate_linear", "--loci", "loci.tsv"),
    ):
        write_record(paths.logs / "group", job, "x", started="2026-01-02T11:00:00+00:00")
        record = json.loads((paths.logs / "group" / f"{job}.json").read_text())
        record["command"] += [option, str(other / name)]
        write_json(paths.logs / "group" / f"{job}.json", record)
    entities = graph(study)
    model, loci = (other / name for name in ("model.safetensors", "loci.tsv"))
    assert model.as_uri() in references(entities["#job-encode_autoencoder"]["object"])
    assert loci.as_uri() in references(entities["#job-replicate_linear"]["object"])
    assert "group/linear/replication.tsv" in references(entities["#job-replicate_linear"]["result"])
    facts = study_facts(Cohort(settings, scans, outcomes), ["encode_autoencoder"])
    assert facts["encoder"]["n_train"] == 90


def test_write_crate__keep_mask_and_pattern(study: Study) -> None:
    settings, paths, scans, outcomes = study
    folder = paths.out.parent
    for name in ("keep.tsv", "mask.nii"):
        (folder / name).write_text("x")
    write_record(paths.logs / "group", "pack", "normalize", started="2026-01-02T11:00:00+00:00")
    pattern = folder / "maps" / "{participant_id}.nii"
    normalize = settings.normalize.model_copy(update={"mask": folder / "mask.nii"})
    update = {"bids": None, "fa_common": pattern, "keep": folder / "keep.tsv"}
    chosen = settings.model_copy(update={**update, "normalize": normalize})
    entities = graph((chosen, paths, scans, outcomes))
    read = {Path(target).name for target in references(entities["#job-pack"]["object"])}
    assert {"keep.tsv", "mask.nii"} <= read
    assert str(pattern) in entities["#setting-fa_common"]["value"]


def test_write_crate__atlas_and_curves(study: Study) -> None:
    settings, paths, scans, outcomes = study
    atlas = paths.out.parent / "atlas.nii"
    atlas.write_text("x")
    (paths.results("autoencoder") / "tensorboard").mkdir()
    linear = settings.linear.model_copy(update={"atlas": atlas})
    entities = graph((settings.model_copy(update={"linear": linear}), paths, scans, outcomes))
    assert atlas.as_uri() in references(entities["#job-train_linear"]["object"])
    curves = "group/autoencoder/tensorboard/"
    assert curves in references(entities["#job-train_autoencoder"]["result"])
    assert "#setting-linear.atlas" not in entities


def test_write_whole_crate__names_the_cohorts_as_parts(tmp_path: Path) -> None:
    (tmp_path / "bids").mkdir()
    content = {"out": "out", "bids": "bids", "replication": {"keep": "k.tsv"}}
    settings = parse_settings(content, "test", tmp_path)
    for cohort in settings.cohorts().values():
        write_crate(Cohort(cohort, []), "native")
    (settings.out / "report.html").write_text("x")
    write_whole_crate(settings, "native")
    crate = ROCrate(settings.out)
    parts = {part.id for part in crate.root_dataset["hasPart"]}
    assert {"discovery/", "replication/", "report.html", "workflow/study.py"} <= parts
    assert crate.get("discovery/")["subjectOf"].id == "discovery/ro-crate-metadata.json"
    assert crate.get("#maps") is None
    alone = parse_settings({"out": "out", "bids": "bids"}, "test", tmp_path)
    assert write_whole_crate(alone, "native") is None


def test_study_facts__are_what_the_outputs_say(study: Study) -> None:
    settings, _, scans, outcomes = study
    jobs = group_jobs(settings)["discovery"]
    facts = study_facts(Cohort(settings, scans, outcomes), jobs)
    of_scans = {key: facts[key] for key in ("scans", "preprocess", "dti", "normalize")}
    assert study_facts(Cohort(settings, scans, outcomes), []) == of_scans
    assert facts["scans"] == {"finished": 2, "people": 2, "excluded": NOBODY}
    assert facts["preprocess"] == {
        "already_preprocessed": False,
        "masks": ["made"],
        "steps": {"motion": "all", "denoising": "some"},
        "slices_replaced": True,
        "eddy_corrected": True,
    }
    assert facts["dti"] == {"method": "WLS", "max_bval": 1500.0, "higher_shells": False}
    assert facts["cohort"] == {"people": 2, "voxel_size": [2.0, 2.0, 2.0]}
    assert facts["encoder"]["n_train"] == 90
    assert facts["linear"] == {
        **{"n_latents": 8, "bandwidth": None, "n_train": 90, "n_validation": 10},
        **{"bandwidth_mm": 3.2, "variance_kept": 0.8, "effective_rank": 12.5},
    }
    assert facts["gwas"] == {
        "people": 100,
        "n_traits": 2,
        "n_variants": 500,
        "n_tested": 480,
        "covariates": ["age"],
        "categorical": ["site"],
        "n_pcs": 2,
        "model": None,
        "winsorize": 4.0,
        "rank_normal": None,
        "chosen": ["extract"],
        **{"min_maf": 0.01, "min_mac": 0, "max_missing": 1, "min_hwe_p": 0, "min_info": 0},
    }
    assert facts["mixed_model"] == {"n_variants": 300, "h2": [0.2, 0.4]}
    assert not any(who in json.dumps(facts) for who in PEOPLE)


def test_study_facts__have_no_part_that_did_not_run(tmp_path: Path) -> None:
    settings = StudySettings(out=tmp_path, bids=tmp_path)
    jobs = group_jobs(settings)["discovery"]
    assert study_facts(Cohort(settings, []), jobs) == {}
    scans = [Scan("sub-anna", "anna")]
    outcome = Outcome("sub-anna", "anna", "not run")
    facts = study_facts(Cohort(settings, scans, [outcome]), jobs)
    assert facts == {"scans": {"finished": 0, "people": 0, "excluded": NOBODY}}

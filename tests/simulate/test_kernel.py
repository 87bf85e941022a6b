"""The simulated physics and genetics against DIPY, MRtrix, scipy and closed forms."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from scipy import stats
from scipy.spatial.transform import Rotation

from axoloci.errors import InputError
from axoloci.io.gradients import world_to_bvec, write_gradients
from axoloci.io.nifti import write_nifti
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import artefacts, kernel, scan
from axoloci.tasks.simulate import genotypes as geno


@pytest.fixture(scope="module")
def phantom() -> tissue.Anatomy:
    return tissue.phantom(8.0)


def random_tensors(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) eigenvalues of mm²/s, (n, 3, 3) axes, (n, 6) tensors."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.2e-3, 2e-3, (n, 3))
    axes = Rotation.random(n, random_state=seed).as_matrix()
    matrix = np.einsum("nij,nj,nkj->nik", axes, values, axes)
    return values, axes, matrix[:, tissue.ROW, tissue.COLUMN].astype(np.float32)


def fa_of(values: np.ndarray) -> np.ndarray:
    """FA of (n, 3) eigenvalues, by its definition."""
    deviation = values - values.mean(axis=1, keepdims=True)
    return np.sqrt(1.5 * (deviation**2).sum(axis=1) / (values**2).sum(axis=1))


def eigenvalues(tensor: np.ndarray) -> np.ndarray:
    """(n, 3) ascending."""
    matrix = np.zeros((len(tensor), 3, 3))
    matrix[:, tissue.ROW, tissue.COLUMN] = matrix[:, tissue.COLUMN, tissue.ROW] = tensor
    return np.linalg.eigvalsh(matrix)


def test_fractional_anisotropy__agrees_with_its_definition() -> None:
    values, _, tensor = random_tensors(200)
    np.testing.assert_allclose(tissue.fractional_anisotropy(tensor), fa_of(values), atol=1e-6)


def test_with_fa__keeps_mean_diffusivity_and_axes() -> None:
    values, axes, tensor = random_tensors(200)
    wanted = np.random.default_rng(1).uniform(0.05, 0.4, 200).astype(np.float32)
    made = tissue.with_fa(tensor, wanted)
    np.testing.assert_allclose(fa_of(eigenvalues(made)), wanted, atol=1e-6)
    np.testing.assert_allclose(eigenvalues(made).mean(axis=1), values.mean(axis=1), rtol=1e-6)
    matrix = np.zeros((200, 3, 3))
    matrix[:, tissue.ROW, tissue.COLUMN] = matrix[:, tissue.COLUMN, tissue.ROW] = made
    turned = np.einsum("nji,njk,nkl->nil", axes, matrix, axes)  # diagonal in the same axes
    off_diagonal = turned[:, ~np.eye(3, dtype=bool)]
    assert np.abs(off_diagonal).max() < 1e-9


def test_largest_fa__leaves_the_smallest_eigenvalue_positive() -> None:
    values, _, tensor = random_tensors(200)
    made = tissue.with_fa(tensor, tissue.largest_fa(tensor))
    lowest = eigenvalues(made)[:, 0]
    np.testing.assert_allclose(
        lowest, tissue.MIN_EIGENVALUE * values.mean(axis=1), rtol=1e-2, atol=1e-6
    )


def test_with_fa_offset__changes_the_chosen_region_alone(phantom: tissue.Anatomy) -> None:
    offset = np.zeros(len(phantom.names))
    offset[3] = 0.05
    fields = phantom.with_fa_offset(offset)
    change = tissue.fractional_anisotropy(fields[:, 1:]) - tissue.fractional_anisotropy(
        phantom.fields[:, 1:]
    )
    inside = phantom.region.ravel() == 4
    np.testing.assert_allclose(change[inside], 0.05, atol=1e-6)
    assert np.abs(change[~inside]).max() < 1e-6


def test_phantom__has_large_regions_and_bright_csf(phantom: tissue.Anatomy) -> None:
    assert (phantom.region_ml[:-1] >= tissue.MIN_REGION_ML).all()
    assert len(phantom.names) == 12 == phantom.region.max()
    md = tissue.mean_diffusivity(phantom.tensor)
    csf = (phantom.s0 > 0) & (md > 2e-3)
    assert phantom.s0[csf].min() > phantom.s0[phantom.region > 0].max()
    assert phantom.s0[0].max() == 0  # air around the head


@pytest.mark.parametrize(("n_directions", "deformation_mm"), [(6, 0.0), (8, 1.5), (30, 1.5)])
def test_simulate_scan__dipy_returns_the_planted_fa(
    phantom: tissue.Anatomy, n_directions: int, deformation_mm: float
) -> None:
    bval, gradient = scan.gradient_scheme(n_directions, 2, 1000.0)
    still = kernel.Protocol(bval, gradient, np.inf, 0, 0, deformation_mm)
    offset = np.random.default_rng(0).normal(0, 0.03, len(phantom.names))
    made = kernel.simulate_scan(phantom, offset, still, np.random.SeedSequence(1))
    planted = scan.true_fa(phantom, made.fields, made.head)
    inside = planted > 0
    table = gradient_table(bval, bvecs=world_to_bvec(gradient, phantom.scan_affine))
    fit = TensorModel(table).fit(made.dwi, mask=inside)
    assert inside.sum() > 2000
    assert np.abs(fit.fa - planted)[inside].max() < 2e-6
    if deformation_mm == 0:
        label = phantom.scan_region[inside]
        expected = phantom.scan_fa[inside] + np.append(offset, 0)[label.astype(int) - 1]
        np.testing.assert_allclose(planted[inside], expected, atol=1e-6)
        md = tissue.mean_diffusivity(phantom.tensor[::2, ::2, ::2])[inside]
        np.testing.assert_allclose(fit.md[inside], md, rtol=1e-5)


def test_simulate_scan__mrtrix_agrees_on_fa_and_main_direction(
    phantom: tissue.Anatomy, tool: Callable[[str], str], tmp_path: Path
) -> None:
    dwi2tensor, tensor2metric = tool("dwi2tensor"), tool("tensor2metric")
    bval, gradient = scan.gradient_scheme(12, 1, 1000.0)
    protocol = kernel.Protocol(bval, gradient, np.inf, 0, 0)
    offset = np.zeros(len(phantom.names))
    made = kernel.simulate_scan(phantom, offset, protocol, np.random.SeedSequence(2))
    write_nifti(tmp_path / "dwi.nii", made.dwi, phantom.scan_affine)
    bvec = world_to_bvec(gradient, phantom.scan_affine)
    write_gradients(tmp_path / "bval", tmp_path / "bvec", bval, bvec)
    for command in (
        [dwi2tensor, "-fslgrad", "bvec", "bval", "dwi.nii", "tensor.nii"],
        [tensor2metric, "tensor.nii", "-fa", "fa.nii", "-vector", "v.nii", "-modulate", "none"],
    ):
        subprocess.run([*command, "-quiet", "-nthreads", "0"], cwd=tmp_path, check=True)
    planted = scan.true_fa(phantom, made.fields, made.head)
    strong = planted > 0.4
    fa = np.asarray(nib.load(tmp_path / "fa.nii").dataobj)  # NaN in air
    assert np.abs(fa - planted)[strong].max() < 1e-5

    template = made.head.to_template(scan.scan_points(phantom)[strong.ravel()])
    tensor = scan.sample(phantom, made.fields, template)[1][:, 1:]
    matrix = np.zeros((len(tensor), 3, 3))
    matrix[:, tissue.ROW, tissue.COLUMN] = matrix[:, tissue.COLUMN, tissue.ROW] = tensor
    # MRtrix gives directions in the world's axes, where the head is turned by its pose.
    main = np.linalg.eigh(matrix)[1][:, :, 2] @ scan.rotation(made.head.pose).T
    found = np.asarray(nib.load(tmp_path / "v.nii").dataobj)[strong]
    assert np.abs((found * main).sum(axis=1)).min() > 0.99999


def test_rotation__is_scipys_about_fixed_axes() -> None:
    pose = np.array([1.0, 2.0, 3.0, 0.3, -0.2, 0.5])
    expected = Rotation.from_euler("xyz", pose[3:]).as_matrix()
    np.testing.assert_allclose(scan.rotation(pose), expected, atol=1e-12)


def test_acquire__turned_head_meets_gradients_turned_back(phantom: tissue.Anatomy) -> None:
    # A quarter turn about y and a shift of one voxel map the grid onto itself.
    bval, gradient = scan.gradient_scheme(6, 1, 1000.0)
    head = scan.random_head(phantom, np.random.default_rng(0), deformation_mm=0)
    shift = phantom.scan_affine[1, 1]
    motion = np.zeros((7, 6))
    motion[4] = 0, shift, 0, 0, np.pi / 2, 0
    moved = scan.acquire(phantom, phantom.fields, head, bval, gradient, motion)
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    back = gradient.copy()
    back[4] = turn.T @ gradient[4]
    still = scan.acquire(phantom, phantom.fields, head, bval, back, np.zeros((7, 6)))
    world = scan.scan_points(phantom).astype(np.float64)
    source = (world - [0, shift, 0]) @ turn  # turn.T applied to each point
    inverse = np.linalg.inv(phantom.scan_affine)
    index = np.rint(source @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    valid = ((index >= 0) & (index < phantom.shape)).all(axis=1)
    expected = still[tuple(index[valid].T)][:, 4]
    assert valid.mean() > 0.9
    assert np.abs(expected - still.reshape(-1, 7)[valid, 4]).max() > 100  # it does move
    np.testing.assert_allclose(moved.reshape(-1, 7)[valid, 4], expected, atol=0.05)
    others = [0, 1, 2, 3, 5, 6]
    np.testing.assert_array_equal(moved[..., others], still[..., others])


def planted_field(anatomy: tissue.Anatomy, distortion_mm: float) -> artefacts.Susceptibility:
    brain = scan.scan_points(anatomy)[anatomy.brain[::2, ::2, ::2].ravel()]
    return artefacts.plant_susceptibility(
        anatomy, artefacts.air_places(anatomy), brain, distortion_mm
    )


def test_susceptibility__displaces_along_y_keeps_the_signal_and_can_be_inverted(
    phantom: tissue.Anatomy,
) -> None:
    points = scan.scan_points(phantom).astype(np.float64)
    field = planted_field(phantom, 8.0)
    displaced, gradient = field.field(points)
    inside = phantom.brain[::2, ::2, ::2].ravel()
    assert -8.5 < displaced[inside].min() < -6  # mm, towards the back
    assert np.median(displaced[inside]) == pytest.approx(0, abs=1e-6)
    step = 1e-4
    for axis in range(3):
        moved = points + step * np.eye(3)[axis]
        difference = (field.field(moved)[0] - displaced) / step
        np.testing.assert_allclose(gradient[:, axis], difference, atol=1e-4)
    pose = np.array([1.0, 2.0, -1.0, 0.1, -0.05, 0.02])
    turn = scan.rotation(pose)
    for polarity in (1, -1):
        place, gain = field.undistorted(points, pose[:3], turn, polarity)
        along = field.field((place - pose[:3]) @ turn)[0]
        there = place + polarity * along[:, None] * [0, 1, 0]
        np.testing.assert_allclose(there, points, atol=1e-3)
        assert gain.min() > 0.5
        line = np.tile([0.0, 0.0, -30.0], (2001, 1))
        line[:, 1] = np.linspace(-100, 100, 2001)
        place, gain = field.undistorted(line, pose[:3], turn, polarity)
        np.testing.assert_allclose(gain, np.gradient(place[:, 1], 0.1), atol=5e-3)
    strongest = planted_field(phantom, 15.0)  # the largest that the command allows
    assert np.abs(strongest.field(points)[1][:, 1]).max() < 0.9


def test_acquire__distortion_moves_signal_along_y_and_keeps_its_sum(
    phantom: tissue.Anatomy,
) -> None:
    head = scan.random_head(phantom, np.random.default_rng(0), deformation_mm=0)
    arguments = (phantom, phantom.fields, head, np.zeros(1), np.zeros((1, 3)), np.zeros((1, 6)))
    still = scan.acquire(*arguments)[..., 0]
    field = planted_field(phantom, 10.0)
    for polarity in (1, -1):
        image = scan.acquire(*arguments, field, polarity)[..., 0]
        assert np.abs(image - still).max() > 500
        sums, expected = image.sum(axis=1), still.sum(axis=1)
        assert np.corrcoef(sums.ravel(), expected.ravel())[0, 1] > 0.999


def test_truncate__is_the_sinc_of_a_cropped_k_space() -> None:
    rng = np.random.default_rng(0)
    fine = 10 + rng.random((16, 12, 3), dtype=np.float32)
    spectrum = np.fft.fftshift(np.fft.fft2(fine, axes=(0, 1)), axes=(0, 1))
    spectrum = spectrum[5:12, 4:9]  # the frequencies that both grids hold in full
    x, y = np.arange(8)[:, None] / 8, np.arange(6)[:, None] / 6
    left = np.exp(2j * np.pi * x * np.arange(-3, 4))
    right = np.exp(2j * np.pi * y * np.arange(-2, 3))
    expected = np.einsum("xk,klz,yl->xyz", left, spectrum, right).real / 16 / 12
    found = artefacts.truncate(fine)
    assert found.shape == (8, 6, 3)
    spectrum = np.fft.fft2(found - expected, axes=(0, 1))
    assert np.abs(spectrum[:4, :3]).max() < 1e-3  # they differ at the last frequency alone


def test_acquire__ringing_overshoots_beside_an_edge(phantom: tissue.Anatomy) -> None:
    head = scan.random_head(phantom, np.random.default_rng(0), deformation_mm=0)
    arguments = (phantom, phantom.fields, head, np.zeros(1), np.zeros((1, 3)), np.zeros((1, 6)))
    still, ringing = (scan.acquire(*arguments, ringing=r)[..., 0] for r in (False, True))
    air = still == 0
    assert np.corrcoef(still.ravel(), ringing.ravel())[0, 1] > 0.9
    assert ringing[air].max() > 0.05 * still.max()
    assert ringing.min() >= 0


def test_drop_slices__lowers_the_wanted_share_of_weighted_slices() -> None:
    rng = np.random.default_rng(0)
    dwi = np.ones((3, 3, 50, 41), dtype=np.float32)
    dwi[:, :, :10] = 0  # air
    weighted = np.arange(41) > 0
    dropped, table = artefacts.drop_slices(dwi, weighted, 0.1, rng)
    assert len(table) == pytest.approx(0.1 * 40 * 40, rel=0.25)
    volume, slices = table[:, :2].astype(int).T
    assert volume.min() > 0
    assert slices.min() >= 10
    assert (table[:, 2] < artefacts.MAX_KEPT).all()
    np.testing.assert_allclose(dropped[1, 1, slices, volume], table[:, 2], rtol=1e-6)
    dropped[:, :, slices, volume] = 1
    np.testing.assert_array_equal(dropped, dwi)


def test_simulate_scan__artefacts_change_no_other_number(phantom: tissue.Anatomy) -> None:
    bval, gradient = scan.gradient_scheme(6, 1, 1000.0)
    none, seed = np.zeros(len(phantom.names)), 3

    def simulated(**artefact: float) -> kernel.Scan:
        protocol = kernel.Protocol(bval, gradient, **artefact)
        return kernel.simulate_scan(phantom, none, protocol, np.random.SeedSequence(seed))

    plain, dropped, distorted = (
        simulated(),
        simulated(dropped_slices=0.1),
        simulated(distortion_mm=8.0),
    )
    lowered = np.zeros(plain.dwi.shape[2:], dtype=bool)
    lowered[tuple(dropped.dropped[:, [1, 0]].astype(int).T)] = True
    same = (plain.dwi == dropped.dwi).all(axis=(0, 1))
    assert 0 < lowered.sum() < 0.25 * lowered.size
    np.testing.assert_array_equal(same, ~lowered)
    np.testing.assert_array_equal(plain.motion, distorted.motion)
    assert plain.reverse_b0 is None
    assert distorted.reverse_b0.shape == phantom.shape
    assert np.abs(distorted.reverse_motion).max() > 0


def test_random_motion__has_the_wanted_size_and_starts_at_rest() -> None:
    rng = np.random.default_rng(0)
    walks = np.stack([scan.random_motion(9, 0.5, 2.0, rng) for _ in range(2000)])
    assert (walks[:, 0] == 0).all()
    rms = np.sqrt((walks**2).mean(axis=(0, 1)))
    np.testing.assert_allclose(rms[:3], 0.5, rtol=0.05)
    np.testing.assert_allclose(np.rad2deg(rms[3:]), 2.0, rtol=0.05)


def test_head__from_template_inverts_to_template(phantom: tissue.Anatomy) -> None:
    rng = np.random.default_rng(0)
    points = scan.scan_points(phantom)
    squares = []
    for _ in range(20):
        head = scan.random_head(phantom, rng)
        back = head.to_template(head.from_template(points))
        assert np.abs(back - points).max() < 0.01
        squares.append((head.displacement(points) ** 2).mean())
    assert np.sqrt(np.mean(squares)) == pytest.approx(scan.DEFORMATION_MM, rel=0.25)


def test_gradient_scheme__six_directions_are_those_of_the_icosahedron() -> None:
    bval, gradient = scan.gradient_scheme(6, 1, 1000.0)
    assert bval.tolist() == [0, *[1000] * 6]
    cosine = np.abs(gradient[1:] @ gradient[1:].T)[np.triu_indices(6, 1)]
    np.testing.assert_allclose(cosine, 1 / np.sqrt(5), atol=1e-3)


def test_add_rician_noise__follows_scipys_rice_distribution() -> None:
    rng = np.random.default_rng(0)
    for signal in (0.0, 30.0, 200.0):
        dwi = np.full(20_000, signal, dtype=np.float32)
        noisy = scan.add_rician_noise(dwi, 20.0, rng)
        assert stats.kstest(noisy, stats.rice(signal / 20.0, scale=20.0).cdf).pvalue > 1e-3


def test_simulate_scan__noise_has_the_wanted_snr(phantom: tissue.Anatomy) -> None:
    bval, gradient = scan.gradient_scheme(6, 1, 1000.0)
    offset, seed = np.zeros(len(phantom.names)), 5
    clean, noisy = (
        kernel.simulate_scan(
            phantom,
            offset,
            kernel.Protocol(bval, gradient, snr, 0, 0),
            np.random.SeedSequence(seed),
        ).dwi[..., 0]
        for snr in (np.inf, 25.0)
    )
    tissue_voxels = clean > 500
    assert (noisy - clean)[tissue_voxels].std() == pytest.approx(1000 / 25, rel=0.05)


def test_from_scan__recovers_a_tensor_whatever_the_axes_of_the_image() -> None:
    # An ellipsoidal head of one tensor, scanned obliquely with a positive determinant.
    _, _, tensor = random_tensors(1, seed=3)
    turn = Rotation.from_euler("xyz", [0.2, -0.1, 0.3]).as_matrix()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * 4.0, [-70.0, -80.0, -50.0]
    bval, gradient = scan.gradient_scheme(12, 2, 1000.0)
    index = np.moveaxis(np.indices((40, 44, 40)), 0, -1) - [19.5, 21.5, 19.5]
    head = (index**2).sum(axis=-1) < 16**2
    weight = gradient[:, tissue.ROW] * gradient[:, tissue.COLUMN] * tissue.TWICE
    signal = 700 * np.exp(-bval * (weight @ tensor[0]))
    dwi = head[..., None] * signal
    made = tissue.from_scan(dwi, bval, gradient, affine, voxel_size=8.0)
    assert np.linalg.det(made.scan_affine[:3, :3]) < 0
    found = made.tensor[made.region > 0]
    assert len(found) > 1000
    np.testing.assert_allclose(found, np.tile(tensor, (len(found), 1)), atol=2e-8)
    assert np.median(made.s0[made.region > 0]) == pytest.approx(tissue.S0_WHITE, rel=1e-3)


def test_from_scan__refuses_too_few_directions() -> None:
    gradient = np.eye(3)[[0, 0, 1, 2]]
    with pytest.raises(InputError, match="six or more directions"):
        tissue.from_scan(
            np.ones((8, 8, 8, 4)), np.array([0.0, 1000, 1000, 1000]), gradient, np.eye(4), 2.0
        )


def test_simulate_variants__blocks_lie_apart() -> None:
    variants, block = geno.simulate_variants(20_000, np.random.default_rng(0))
    assert len(variants) == len(set(variants.variant_id)) == 20_000
    chromosome = variants.chromosome.astype(int)
    assert (np.diff(chromosome) >= 0).all()
    assert set(chromosome) == set(range(1, 23))
    step = np.diff(variants.position)
    same = np.diff(chromosome) == 0
    assert (step[same] > 0).all()
    assert step[same & (np.diff(block) > 0)].min() > 250_000
    assert np.bincount(block).max() == geno.MAX_BLOCK
    assert (variants.effect_allele != variants.other_allele).all()


def test_simulate_haplotypes__link_within_blocks_only() -> None:
    rng = np.random.default_rng(0)
    variants, block = geno.simulate_variants(400, rng)
    assert len(variants) == 400
    frequency = geno.simulate_frequencies(block, 1, 0.1, rng)
    haplotypes = geno.simulate_haplotypes(block, frequency, np.zeros(1000, dtype=int), rng)
    found = haplotypes.mean(axis=1)
    z = (found - frequency[0]) / np.sqrt(frequency[0] * (1 - frequency[0]) / 2000)
    assert np.abs(z).max() < 5
    dosage = haplotypes[:, ::2] + haplotypes[:, 1::2]
    r2 = np.corrcoef(dosage) ** 2
    same = block[:, None] == block[None]
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    assert r2[~same].mean() == pytest.approx(1 / 999, rel=0.05)  # chance alone
    assert r2[same & upper].min() > 0.03
    neighbours = r2.diagonal(1)[np.diff(block) == 0]
    assert np.median(neighbours) > 0.4


def test_simulate_frequencies__fst_is_as_asked() -> None:
    rng = np.random.default_rng(0)
    block = np.arange(5000)
    p, q = geno.simulate_frequencies(block, 2, 0.1, rng)
    # Hudson's estimator, DOI 10.1101/gr.154831.113
    fst = ((p - q) ** 2).mean() / (p * (1 - q) + q * (1 - p)).mean()
    assert fst == pytest.approx(0.1, rel=0.1)


def test_simulate_genotypes__families_share_half_of_their_genes() -> None:
    rng = np.random.default_rng(0)
    people = kernel.simulate_people(300, 10, 1, rng)
    variants, dosage = kernel.simulate_genotypes(people, 6000, 10, 0.1, rng)
    z = geno.standardized(dosage)
    relatedness = z.T @ z / len(variants)
    father, mother = np.arange(0, 40, 4), np.arange(1, 40, 4)
    child = np.concatenate([father + 2, father + 3])
    for parent in (father, mother):
        pairs = relatedness[np.tile(parent, 2), child]
        assert pairs.mean() == pytest.approx(0.5, abs=0.03)
        opposite = np.abs(dosage[:, np.tile(parent, 2)] - dosage[:, child]) == 2
        assert not opposite.any()  # a parent passes one allele on
    assert relatedness[father + 2, father + 3].mean() == pytest.approx(0.5, abs=0.06)
    assert relatedness[father, mother].mean() == pytest.approx(0, abs=0.05)
    assert people.father[2] == people.sample_id[0]
    assert people.male[0]
    assert not people.male[1]


def test_leading_pcs__find_the_populations() -> None:
    rng = np.random.default_rng(0)
    people = kernel.simulate_people(80, 0, 2, rng)
    _, dosage = kernel.simulate_genotypes(people, 3000, 0, 0.1, rng)
    pcs = geno.leading_pcs(dosage, 3)
    assert abs(np.corrcoef(pcs[:, 0], people.population)[0, 1]) > 0.99
    np.testing.assert_allclose(pcs.std(axis=0), 1)


def test_choose_causal__takes_common_variants_that_do_not_follow_ancestry() -> None:
    rng = np.random.default_rng(0)
    people = kernel.simulate_people(100, 0, 3, rng)
    variants, dosage = kernel.simulate_genotypes(people, 6000, 0, 0.2, rng)
    pcs = geno.leading_pcs(dosage, 2)
    causal = geno.choose_causal(dosage, variants.chromosome, pcs, 5, rng)
    assert len(set(variants.chromosome[causal])) == 5
    frequency = dosage[causal].mean(axis=1) / 2
    assert np.minimum(frequency, 1 - frequency).min() >= geno.CAUSAL_MAF
    r2 = (np.corrcoef(np.vstack([dosage[causal], pcs.T]))[:5, 5:] ** 2).sum(axis=1)
    varying = dosage[dosage.std(axis=1) > 0]
    everyone = (np.corrcoef(np.vstack([varying, pcs.T]))[:-2, -2:] ** 2).sum(axis=1)
    assert r2.mean() < everyone.mean() / 3
    with pytest.raises(InputError, match="fewer loci"):
        geno.choose_causal(dosage[:10], variants.chromosome[:10], pcs, 2, rng)


def test_pack_bed__follows_plinks_codes() -> None:
    dosage = np.array([[2, 1, 0, -1, 0]], dtype=np.int8)
    packed = geno.pack_bed(dosage)
    assert packed.tolist() == [[0b01_11_10_00, 0b11]]


def test_drop_calls__loses_the_wanted_share() -> None:
    dosage = np.ones((500, 200), dtype=np.int8)
    lost = kernel.drop_calls(dosage, 0.02, np.random.default_rng(0)) == -1
    assert lost.mean() == pytest.approx(0.02, rel=0.1)


def test_fa_offsets__regression_recovers_what_was_planted(phantom: tissue.Anatomy) -> None:
    rng = np.random.default_rng(0)
    people = kernel.simulate_people(600, 0, 2, rng)
    variants, dosage = kernel.simulate_genotypes(people, 600, 0, 0.1, rng)
    pcs = geno.leading_pcs(dosage, 2)
    covariates = kernel.simulate_covariates(people, pcs[:, 0], rng)
    loci = kernel.plant_loci(dosage, variants.chromosome, pcs, phantom, 3, 0.04, rng)
    n_regions = len(phantom.names)
    offset = kernel.fa_offsets(people, covariates, dosage, loci, n_regions, 0.01, rng)
    assert len({locus.region for locus in loci}) == 3
    assert all(phantom.region_ml[locus.region] >= kernel.MIN_LOCUS_ML for locus in loci)
    expected = (kernel.AGE_EFFECT, kernel.MALE_EFFECT, kernel.SITE_EFFECT, 0.01)
    for locus in loci:
        design = np.column_stack(
            [
                *(np.ones(600), covariates.age, people.male, covariates.site),
                *(covariates.ancestry, dosage[locus.variant]),
            ]
        )
        trait = offset[:, locus.region]
        beta, residual, *_ = np.linalg.lstsq(design, trait)
        se = np.sqrt(np.linalg.inv(design.T @ design).diagonal() * residual / 594)
        z = (beta[1:] - [*expected, locus.effect]) / se[1:]
        assert np.abs(z).max() < 4.5
        assert abs(locus.effect) == 0.04
        assert abs(beta[5] / se[5]) > 20
        assert locus.frequency == pytest.approx(dosage[locus.variant].mean() / 2)
    free = [r for r in range(n_regions) if r not in {locus.region for locus in loci}]
    assert abs(np.corrcoef(offset[:, free[0]], dosage[loci[0].variant])[0, 1]) < 0.2


def test_simulate_covariates__children_are_younger_than_their_parents() -> None:
    rng = np.random.default_rng(0)
    people = kernel.simulate_people(40, 8, 1, rng)
    age = kernel.simulate_covariates(people, np.zeros(40), rng).age
    first = np.arange(0, 32, 4)
    for child in (first + 2, first + 3):
        assert (np.minimum(age[first], age[first + 1]) - age[child] >= 19.9).all()
    assert age[32:].min() >= kernel.AGE_RANGE[0]


def test_plant_loci__refuses_more_loci_than_regions(phantom: tissue.Anatomy) -> None:
    rng = np.random.default_rng(0)
    dosage = np.ones((5, 8), dtype=np.int8)
    with pytest.raises(InputError, match="the anatomy has 11"):
        kernel.plant_loci(dosage, np.array(["1"] * 5), np.ones((8, 1)), phantom, 12, 0.1, rng)

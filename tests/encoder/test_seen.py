"""Which maps are of people whom a model has seen."""

from __future__ import annotations

import numpy as np
import pytest

from axoloci.tasks.encoder.seen import is_seen, number_people, person_of, two_sessions


@pytest.mark.parametrize(
    ("sample_id", "person"),
    [
        ("0001", "0001"),
        ("sub-01", "01"),
        ("sub-01_ses-2", "01"),
        ("01_ses-2_run-1", "01"),
        ("01_run-2", "01"),
        ("sub-01_acq-a_run-1", "01"),
        ("sub-01_dir-AP_dwi", "01"),
        ("sub-01_dwi", "01"),
        ("01_acq-a_run-1", "01"),
        ("01_rec-norm_ses-2", "01"),
        ("01_b_dir-AP", "01_b"),
        ("F1 01", "F1 01"),
        ("a_session_2", "a_session_2"),
        ("site_a-01", "site_a-01"),  # no entity of BIDS
    ],
)
def test_person_of__takes_away_what_bids_writes_after_the_person(
    sample_id: str, person: str
) -> None:
    assert person_of(sample_id) == person


def test_is_seen__finds_other_acquisitions_of_those_in_training() -> None:
    others = ["sub-01_acq-b_run-1", "sub-01_dir-PA_dwi", "01_acq-b", "sub-02_acq-a"]
    found = is_seen(others, {"sub-01_acq-a_run-1"}, ())
    np.testing.assert_array_equal(found, [True, True, True, False])
    number = number_people([*others, "sub-01_ses-2"], ())
    np.testing.assert_array_equal(number == number[0], [True, True, True, False, True])


def test_number_people__joins_by_ids_and_by_chains_of_pairs() -> None:
    sample_id = ["a", "b_ses-1", "b_ses-2", "c", "d", "e"]
    # d is c by way of somebody who is not there, and of an id with a session
    pairs = [("c", "away_ses-1"), ("sub-away", "d"), ("x", "y")]
    number = number_people(sample_id, pairs)
    assert number[1] == number[2]
    assert number[3] == number[4]
    assert len(set(number.tolist())) == 4
    assert len(set(number_people(sample_id, []).tolist())) == 5
    assert number_people([], []).shape == (0,)


def test_is_seen__finds_other_sessions_of_those_seen() -> None:
    sample_id = ["p1", "p1_ses-2", "sub-p2", "visit", "q", "r"]
    found = is_seen(sample_id, {"p1_ses-1", "p2", "p3"}, [("visit", "p3"), ("q", "r")])
    np.testing.assert_array_equal(found, [True, True, True, True, False, False])
    assert not is_seen(sample_id, set(), [("q", "r")]).any()


def test_two_sessions__has_one_pair_a_person_of_those_who_are_there() -> None:
    sample_id = ["a1", "a2", "a3", "b1", "b2", "c1"]
    pairs = [("c1", "c2"), ("a1", "a2"), ("a2", "a3"), ("b2", "b1")]
    number = number_people(sample_id, pairs)
    np.testing.assert_array_equal(two_sessions(sample_id, pairs, number), [[0, 1], [4, 3]])
    alone = number_people(sample_id, [])
    assert two_sessions(sample_id, [], alone).shape == (0, 2)


def test_two_sessions__of_ids_that_tell_them() -> None:
    sample_id = ["a_ses-1", "b_ses-1", "a_ses-2", "c", "b_ses-3", "b_ses-2"]
    number = number_people(sample_id, [])
    found = two_sessions(sample_id, [], number)
    np.testing.assert_array_equal(found, [[0, 2], [1, 4]])
    pairs = [("b_ses-2", "b_ses-1")]
    np.testing.assert_array_equal(two_sessions(sample_id, pairs, number), [[5, 1], [0, 2]])

"""Who is who: the id of a person, by the IID alone or by FID and IID.

The id of a person is the IID. Only where the genotypes give one IID to people of several families
are these people told apart by both: their id is "FID IID", in every table and store that axoloci
writes too. Tables then need both columns for them, or that id. Where an IID is of one person it
alone decides, and an FID that contradicts is no reason to leave anyone out: tables of a cohort
often have the IID, a batch or nothing in its place. (PLINK leaves such people out.)

"sub-" before an id is no part of it. The FID 0 is none, as for PLINK.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NO_FAMILY = ("", "0", "NA", "nan", "None")


def sample_ids(fid: pd.Series, iid: pd.Series) -> pd.Index:
    """Ids of the people of genotypes.

    Parameters
    ----------
    fid, iid : (n_samples,)
        Strings.

    Examples
    --------
    >>> list(sample_ids(pd.Series(["a", "a", "b"]), pd.Series(["1", "2", "1"])))
    ['a 1', '2', 'b 1']
    """
    several = iid.duplicated(keep=False)
    ids: pd.Index = pd.Index(iid.where(~several, _both(fid, iid)).to_numpy(), name="sample_id")
    return ids


class Matched(NamedTuple):
    """Who the people of a table are.

    Attributes
    ----------
    sample_id : object, (n,)
        Ids as in the genotypes, or as they would be there.
    ambiguous : bool, (n,)
        Who cannot be told from another person of the genotypes.
    contradicts : bool, (n,)
        Who has another FID in the genotypes and is taken for the same person.
    """

    sample_id: NDArray[np.object_]
    ambiguous: NDArray[np.bool_]
    contradicts: NDArray[np.bool_]


def match_people(iid: pd.Series, fid: pd.Series | None, people: pd.DataFrame | None) -> Matched:
    """Find the people of a table among those of the genotypes.

    Parameters
    ----------
    iid : (n,)
        Strings without "sub-".
    fid : (n,), optional
        Those of the same people, if the table has them.
    people
        Those of the genotypes: columns `fid` and `iid`, indexed by `sample_id`. Without it people
        of one table are told apart all the same.
    """
    if people is None:
        people = pd.DataFrame({"fid": [], "iid": []}, dtype=object)
    iid = iid.reset_index(drop=True).astype(object)
    if fid is None:
        fid = pd.Series("0", index=iid.index, dtype=object)
    fid = fid.reset_index(drop=True).astype(str).str.strip().str.removeprefix("sub-")
    has_family, both = ~fid.isin(NO_FAMILY), _both(fid, iid)

    shared = people["iid"].duplicated(keep=False)
    of_several = iid.isin(people["iid"][shared])  # there
    alone = people[~shared].set_index("iid")["fid"].str.removeprefix("sub-")
    family = iid.map(alone)  # of the one person who has the IID there; NaN if there is no one
    pairs = pd.DataFrame({"fid": fid, "iid": iid}).drop_duplicates()
    several_here = iid.isin(pairs["iid"][pairs["iid"].duplicated()]) & has_family
    is_other = several_here & (family != fid) & ~family.isin(NO_FAMILY)  # who has it there is not
    by_both = of_several | is_other
    known = has_family & family.notna() & ~family.isin(NO_FAMILY)
    return Matched(
        iid.where(~by_both, both).to_numpy(),
        (of_several & ~has_family & ~both.isin(people.index)).to_numpy(),
        (known & ~by_both & (family != fid)).to_numpy(),
    )


def _both(fid: pd.Series, iid: pd.Series) -> pd.Series:
    return fid.str.removeprefix("sub-") + " " + iid

"""The commit log: small objects in copies, the lease, the chain of commits."""

from backend.commits.authority_format import (
    MAX_EPOCH,
    SEALED_KEY_SIZE,
    decode_authority,
    encode_authority,
)
from backend.commits.commit_format import decode as decode_commit
from backend.commits.commit_format import encode as encode_commit
from backend.commits.commit_format import is_signed_by, payload_associated_data, signed
from backend.commits.commit_log import ReplicatedCommitLog
from backend.commits.commit_search import FOLDER, commit_key, number_of
from backend.commits.lease import (
    DEFAULT_SECONDS,
    LONGEST_PATIENCE,
    PATIENCE,
    STORE_SECONDS,
    Lease,
    renewed_after,
)
from backend.commits.lease_record import MAX_SIZE, NO_CLAIM, Claim, decode, is_sealed
from backend.commits.lease_votes import KEY, LeaseVotes
from backend.commits.object_format import Copy
from backend.commits.other_holders import SILENT_SECONDS
from backend.commits.process_identity import life_of, this_process
from backend.commits.replicated_objects import (
    MAX_STORED,
    ROOTS,
    Copies,
    Damage,
    Listing,
    Ranking,
    ReplicatedObjects,
    ranking_of,
)
from backend.commits.root_mending import mend_root
from backend.commits.voter_rounds import REMEMBERED

__all__ = [
    "DEFAULT_SECONDS",
    "FOLDER",
    "KEY",
    "LONGEST_PATIENCE",
    "MAX_EPOCH",
    "MAX_SIZE",
    "MAX_STORED",
    "NO_CLAIM",
    "PATIENCE",
    "REMEMBERED",
    "ROOTS",
    "SEALED_KEY_SIZE",
    "SILENT_SECONDS",
    "STORE_SECONDS",
    "Claim",
    "Copies",
    "Copy",
    "Damage",
    "Lease",
    "LeaseVotes",
    "Listing",
    "Ranking",
    "ReplicatedCommitLog",
    "ReplicatedObjects",
    "commit_key",
    "decode",
    "decode_authority",
    "decode_commit",
    "encode_authority",
    "encode_commit",
    "is_sealed",
    "is_signed_by",
    "life_of",
    "mend_root",
    "number_of",
    "payload_associated_data",
    "ranking_of",
    "renewed_after",
    "signed",
    "this_process",
]

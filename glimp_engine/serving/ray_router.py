"""Which replica a request goes to: the one that has most likely seen its beginning, unless that one is busy."""

import json
import random
from hashlib import blake2b
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.datastructures import Headers

__all__ = ["PrefixRouter", "affinity_of"]

NUM_CHARS = 512  # of a prompt's beginning; about eight pages, fewer are soon computed again
CHARS_A_TOKEN = 4
SESSION_HEADER = "x-session-id"  # Ray's own name for it
MAX_LEAD = 8  # requests that a replica may have more than the least busy one before it's passed over
FULL = 0.9  # share of the pages in use from which on sequences may soon have to give theirs back


def affinity_of(headers: Headers, body: bytes) -> str:
    """What requests have in common that should meet on one replica; empty if there is nothing.

    It is the session that the header or `prompt_cache_key` names, else the beginning of the prompt: of a chat what
    comes up to its first message of a user, so that its later turns, which only add messages, have the same.
    """
    try:
        fields = json.loads(body) if body else None
    except ValueError:
        fields = None  # the engine's replica says what is wrong with it
    fields = fields if isinstance(fields, dict) else {}
    session = headers.get(SESSION_HEADER) or fields.get("prompt_cache_key")
    if isinstance(session, str) and session:
        return session
    start = start_of(fields)
    return blake2b(start.encode(errors="replace"), digest_size=16).hexdigest() if start else ""


def start_of(fields: dict[str, Any]) -> str:
    """The first characters of a chat or a prompt."""
    messages, prompt = fields.get("messages"), fields.get("prompt")
    if isinstance(messages, list):
        told = []
        for message in messages:
            told.append(json.dumps(message, sort_keys=True))
            if not isinstance(message, dict) or message.get("role") == "user":
                break
        return "".join(told)[:NUM_CHARS]
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]  # of several
    if isinstance(prompt, list) and prompt:
        return json.dumps(prompt[: NUM_CHARS // CHARS_A_TOKEN])
    return prompt[:NUM_CHARS] if isinstance(prompt, str) else ""


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray's classes are untyped to us
    """Rendezvous hashing of a request's session id; the less busy one of two where there is none, or its home is busy.

    It has no state of its own, so any number of ingresses agree, and a replica that comes or goes moves only what is
    its own.

    Source: highest random weight (Thaler and Ravishankar, 1998); two choices (Mitzenmacher, 2001).
    """

    queue_len_response_deadline_s = 5.0  # Ray's 0.1 is too short for a home whose processors are all at work

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas by rank: of each list Ray takes the least busy one that has room."""
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        if pending_request is None:
            return [two]
        pending_request.routing_context.should_backoff = True  # between two rounds in which all were full
        session = pending_request.metadata.session_id
        if not session or not candidate_replicas:
            return [two]
        home = max(candidate_replicas, key=lambda replica: weight(session, replica.replica_id.unique_id))
        others = [replica for replica in candidate_replicas if replica is not home]
        return [two] if others and self._is_passed_over(home, others) else [[home], two]

    def _is_passed_over(self, home: RunningReplica, others: list[RunningReplica]) -> bool:
        """Whether it's so much busier than another that what it has cached doesn't make up for it."""
        has_lead = self._num_open(home) - min(map(self._num_open, others)) > MAX_LEAD
        return has_lead or (pages_in_use(home) >= FULL > min(map(pages_in_use, others)))

    def _num_open(self, replica: RunningReplica) -> int:
        """Requests that it has, so far as they have come from here; nothing is known for some seconds at most."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def pages_in_use(replica: RunningReplica) -> float:
    """The share that it last told of."""
    return float(replica.routing_stats.get("pages_in_use", 0.0))


def weight(session: str, replica_id: str) -> bytes:
    """The session's home is the replica with the largest."""
    return blake2b(f"{replica_id} {session}".encode(errors="replace"), digest_size=8).digest()

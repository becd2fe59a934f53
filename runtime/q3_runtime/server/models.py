"""The models of one server, found by name."""

from dataclasses import dataclass, field

from q3_runtime.server.refusals import RefusedError
from q3_runtime.server.scheduling import Limits
from q3_runtime.server.served_model import ServedModel

WORDS = {"embedding": "embedding model", "reranker": "reranker"}


@dataclass
class Models:
    """What is served, in the order in which it was named, and what a request may ask of it."""

    served: list[ServedModel] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    max_client_batch_size: int = 2048
    """Texts of one request."""
    max_concurrent_requests: int = 512
    """Requests that were read and not answered."""

    def find(self, name: str | None, kind: str | None = None) -> ServedModel:
        """The model of that name; without one the first of the kind, or the first.

        Raises:
            RefusedError: no such name, or no model of the kind.
        """
        if name is not None:
            for names in (lambda model: {model.name}, lambda model: model.aliases):
                for model in self.served:
                    if name in names(model):
                        return model
            there = ", ".join(model.name for model in self.served)
            raise RefusedError("unknown_model", f"no model is called {name[:100]!r}, here are {there}", param="model")
        for model in self.served:
            if kind in (None, model.kind):
                return model
        raise RefusedError("wrong_model", f"no {WORDS[str(kind)]} is served here, this route needs one", param="model")

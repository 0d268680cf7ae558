"""The model that is served, and what Ollama's protocol says of it."""

from dataclasses import dataclass
from typing import Any

from hub.inference.local.engine import Engine
from hub.inference.local.extra import STAND_IN_KEY
from hub.inference.local.wire import Sampling


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model and what it is called."""

    engine: Engine
    name: str
    sampling: Sampling
    stand_in: bool

    @property
    def thinks(self) -> bool:
        """Whether its thinking can be asked for."""
        return "enable_thinking" in self.engine.model.chat_template

    def tag(self) -> dict[str, Any]:
        """Its entry in ``/api/tags``."""
        model = self.engine.model
        return {
            "name": self.name,
            "model": self.name,
            "modified_at": model.modified_at.isoformat(),
            "size": model.size,
            "digest": model.digest,
            "details": self._details(),
        }

    def loaded(self) -> dict[str, Any]:
        """Its entry in ``/api/ps``."""
        # Ollama's way to say that a model stays loaded.
        state = {"expires_at": "2318-01-01T00:00:00Z", "size_vram": 0}
        return {**self.tag(), **state, "context_length": self.engine.context}

    def shown(self) -> dict[str, Any]:
        """What ``/api/show`` answers."""
        model, usual = self.engine.model, self.sampling
        parameters = {
            "num_ctx": self.engine.context,
            "num_predict": usual.num_predict,
            "temperature": usual.temperature,
            "top_p": usual.top_p,
            "top_k": usual.top_k,
            "min_p": usual.min_p,
            "repeat_penalty": usual.repeat_penalty,
        }
        facts = {key: fact for key, fact in model.facts.items() if not key.startswith("tokenizer.")}
        own = {"general.parameter_count": model.parameters, STAND_IN_KEY: self.stand_in}
        return {
            "license": model.facts.get("general.license", ""),
            "modelfile": "",
            "parameters": "\n".join(f"{key} {value}" for key, value in parameters.items()),
            "template": model.chat_template,
            "details": self._details(),
            "model_info": {**facts, **own},
            "capabilities": ["completion", *(["thinking"] if self.thinks else [])],
            "modified_at": model.modified_at.isoformat(),
            "stand_in": self.stand_in,
        }

    def _details(self) -> dict[str, Any]:
        model = self.engine.model
        return {
            "parent_model": "",
            "format": "gguf",
            "family": model.architecture,
            "families": [model.architecture],
            "parameter_size": f"{model.parameters / 1e6:.2f}M",
            "quantization_level": model.quantization,
        }

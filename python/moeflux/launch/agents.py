"""The agents that `moeflux launch` knows: a row each. Words in braces are fields of `Served`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .server import Served

KEY = "MOEFLUX_API_KEY"  # by this name an agent finds the server's key
NO_KEY = "none"  # agents want some key, also where the server asks for none


@dataclass(frozen=True)
class Agent:
    """What an agent needs to ask a local server.

    Attributes:
        package: of npm, which brings the program.
        environment: names and texts; what is no text is given as JSON.
        settings: names and values, given before other arguments as `-c NAME=VALUE`.
    """

    package: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


AGENTS: Mapping[str, Agent] = {
    "claude": Agent(
        "@anthropic-ai/claude-code",
        {
            "ANTHROPIC_BASE_URL": "{url}",
            "ANTHROPIC_AUTH_TOKEN": "{key}",
            "ANTHROPIC_MODEL": "{model}",
            "ANTHROPIC_SMALL_FAST_MODEL": "{model}",
            "ANTHROPIC_DEFAULT_OPUS_MODEL": "{model}",
            "ANTHROPIC_DEFAULT_SONNET_MODEL": "{model}",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}",
            "CLAUDE_CODE_SUBAGENT_MODEL": "{model}",
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "{context}",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "{output}",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    ),
    "codex": Agent(
        "@openai/codex",
        {KEY: "{key}"},
        {
            "model": "{model}",
            "model_context_window": "{context}",
            "model_provider": "moeflux",
            "model_providers.moeflux.name": "moeflux",
            "model_providers.moeflux.base_url": "{url}/v1",
            "model_providers.moeflux.wire_api": "responses",
            "model_providers.moeflux.env_key": KEY,
        },
    ),
    "opencode": Agent(
        "opencode-ai",
        {
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_CONFIG_CONTENT": {
                "model": "moeflux/{model}",
                "small_model": "moeflux/{model}",
                "provider": {
                    "moeflux": {
                        "npm": "@ai-sdk/openai-compatible",
                        "options": {"baseURL": "{url}/v1", "apiKey": "{key}"},
                        "models": {
                            "{model}": {"limit": {"context": "{context}", "output": "{output}"}}
                        },
                    }
                },
            },
        },
    ),
}

# An agent prefers what it finds of these to a local server, or would send it elsewhere.
CLOUD = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CUSTOM_HEADERS", "AWS_BEARER_TOKEN_BEDROCK", "AZURE_API_KEY",
    "AZURE_OPENAI_API_KEY", "CEREBRAS_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY", "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_VERTEX",
    "CODEX_API_KEY", "DEEPSEEK_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY",
    "GOOGLE_GENERATIVE_AI_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "OPENAI_API_KEY",
    "OPENAI_BASE_URL", "OPENCODE_CONFIG_CONTENT", "OPENROUTER_API_KEY", "TOGETHER_API_KEY",
    "XAI_API_KEY",
)  # fmt: skip


def arguments(agent: Agent, served: Served) -> list[str]:
    """Arguments that an agent is given before those of its user. Values are JSON, hence TOML."""
    found = _filled(agent.settings, served).items()
    return [part for name, value in found for part in ("-c", f"{name}={_json(value)}")]


def environment(agent: Agent, served: Served, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of an agent: `outer` without keys of clouds, and what the agent is told.

    A proxy of `outer` is not asked for the server.
    """
    found = {name: value for name, value in outer.items() if name not in CLOUD}
    for name in ("NO_PROXY", "no_proxy"):
        found[name] = ",".join(filter(None, (found.get(name), served.host)))
    for name, value in _filled(agent.environment, served).items():
        found[name] = value if isinstance(value, str) else _json(value)
    return found


def _filled(value: Any, served: Served) -> Any:
    """A value with fields in place of words in braces; a number stays one where it stands alone."""
    if isinstance(value, Mapping):
        return {_filled(name, served): _filled(item, served) for name, item in value.items()}
    facts = {"url": served.url, "key": served.key or NO_KEY, "model": served.model,
             "context": served.context, "output": served.context // 4}  # fmt: skip
    alone = re.fullmatch(r"{(\w+)}", value)
    return facts[alone[1]] if alone else value.format_map(facts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

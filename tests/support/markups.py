"""Calls as models write them: text by markup, from the chat templates of the families."""

from moeflux.serve.parse.markup import find_markup

GLM = find_markup("<think> <tool_call> <arg_key>")
MINIMAX = find_markup("<think> <minimax:tool_call>")
KIMI = find_markup("<|tool_calls_section_begin|>")
DEEPSEEK = find_markup("<think> <｜tool▁calls▁begin｜>")
HARMONY = find_markup("<|channel|> functions")
GEMMA = find_markup("<|channel>thought <|tool_call>")
LFM = find_markup("<|tool_list_start|>")
MISTRAL = find_markup("[THINK] [TOOL_CALLS] [ARGS]")
MIXTRAL = find_markup("[TOOL_CALLS] tool_call.id|length != 9")
ALL = (GLM, MINIMAX, KIMI, DEEPSEEK, HARMONY, GEMMA, LFM, MISTRAL, MIXTRAL)
TAGS = sorted(frozenset().union(*(markup.tags for markup in ALL)))


def glm(name, *pairs):
    """As GLM 4.5 writes it."""
    inner = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in pairs)
    return f"<tool_call>{name}\n{inner}</tool_call>"


def minimax(*calls):
    """As MiniMax-M2 writes them, each (name, *pairs)."""
    inner = "".join(
        f'<invoke name="{name}">\n'
        + "".join(f'<parameter name="{k}">{v}</parameter>\n' for k, v in pairs)
        + "</invoke>\n"
        for name, *pairs in calls
    )
    return f"<minimax:tool_call>\n{inner}</minimax:tool_call>"


def kimi(*calls):
    """As Kimi-K2 writes them, each (name, arguments)."""
    inner = "".join(
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|>"
        for i, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


def deepseek(*calls):
    """As DeepSeek-V3.1 writes them, each (name, arguments)."""
    inner = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def deepseek_v3(name, arguments):
    """As DeepSeek-V3 writes one."""
    return deepseek(("function", f"{name}\n```json\n{arguments}\n```"))


def harmony(name, arguments):
    """As gpt-oss writes one."""
    return (f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"
            "<|call|>")  # fmt: skip


ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


def gemma(name, arguments=""):
    """As Gemma 4 writes one, of arguments in its notation."""
    return f"<|tool_call>call:{name}{{{arguments}}}<tool_call|>"


def lfm(*calls):
    """As LFM2 writes them, each as Python would."""
    return f"<|tool_call_start|>[{', '.join(calls)}]<|tool_call_end|>"


def mistral(name, arguments):
    """As Mistral's models write one."""
    return f"[TOOL_CALLS]{name}[ARGS]{arguments}"


def mixtral(*calls):
    """As Mixtral-8x22B writes them, each (name, arguments)."""
    inner = (f'{{"name": "{name}", "arguments": {arguments}, "id": "aB3dE6gH{i}"}}'
             for i, (name, arguments) in enumerate(calls))  # fmt: skip
    return f"[TOOL_CALLS] [{', '.join(inner)}]"


def lfm_json(*calls):
    """As LFM2 writes them when it is asked for JSON, each (name, arguments)."""
    return lfm(*(f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in calls))

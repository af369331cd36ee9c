"""What mypy must refuse: it also refuses a comment that names an error where there is none."""

import moeflux

with moeflux.load(memory="24MiB", context=512) as model:
    text: str = moeflux.generate(model, "x", max_tokens=4, temperature=0.5)
    moeflux.generate(model, "x", max_tokenz=4)  # type: ignore[call-arg]
    moeflux.generate(model, "x", max_tokens="4")  # type: ignore[arg-type]
    moeflux.generate(model, messages=[], tools=[{}], continue_final_message=True)
    moeflux.generate(model, messages=[], tool=[{}])  # type: ignore[call-arg]
    moeflux.stream_generate(model, "x", cancel=lambda: 0)  # type: ignore[arg-type, return-value]
    talk = moeflux.Conversation(model, chat_template_kwargs={"enable_thinking": False})
    talk.reply("x", max_tokens=4, progress=print)
    talk.reply("x", temperatur=1)  # type: ignore[call-arg]
    ids: list[int] = model.tokenizer.encode_chat([{"role": "user"}], special_as_text=True)
    model.tokenizer.apply_template([], documentz=[])  # type: ignore[call-arg]

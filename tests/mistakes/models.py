"""Mistakes with models, tokenizers, templates and adapters."""

from __future__ import annotations

from pathlib import Path

from tests.mistakes.desk import CHAT, Desk, Mistake


def _chats(desk: Desk) -> str:
    return desk.write("chats.jsonl", [{"messages": CHAT}] * 3)


def _adapter(desk: Desk, base: Path | str | None = None, name: str = "adapter") -> str:
    """A folder with a fresh adapter of a base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from plaudit.models.adapters import save_adapter
    from plaudit.models.fingerprint import base_fingerprint

    model = AutoModelForCausalLM.from_pretrained(base or desk.model)
    fingerprint = base_fingerprint(model)
    options = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    save_adapter(get_peft_model(model, options), desk.folder / name, fingerprint)
    return name


def _other_base(desk: Desk) -> list[object]:
    from tests.conftest import write_tiny_model

    other = write_tiny_model(desk.folder / "other", seed=1)
    return desk.train("dpo", None, "--lora.path", _adapter(desk, other))


def _adapter_as_model(desk: Desk) -> list[object]:
    return desk.train("dpo", None, model=_adapter(desk))


def _merged_twice(desk: Desk) -> list[object]:
    assert desk.call("merge", _adapter(desk), "merged").status == 0
    return ["merge", "merged", "again"]


def _template(text: str, method: str = "sft") -> object:
    def command(desk: Desk) -> list[object]:
        return desk.train(method, _chats(desk), "--chat-template", desk.write("chat.jinja", text))

    return command


def _reward_model(desk: Desk) -> str:
    """A folder that says that it is a reward model."""
    return desk.copy_of_model("reward", config={"architectures": ["LlamaForSequenceClassification"], "num_labels": 1})


def _small_embedding(desk: Desk) -> str:
    """A tokenizer with more tokens than the model has rows."""
    from transformers import AutoTokenizer

    name = desk.copy_of_model()
    tokenizer = AutoTokenizer.from_pretrained(desk.model)
    tokenizer.add_tokens(["blue", "grey"])
    tokenizer.save_pretrained(desk.folder / name)
    return name


def _broken_weights(desk: Desk) -> str:
    name = desk.copy_of_model()
    file = desk.folder / name / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    return name


def _quantised(method: str) -> object:
    return lambda desk: desk.train(
        "dpo", model=desk.copy_of_model(config={"quantization_config": {"quant_method": method, "bits": 4}})
    )


def _bert(desk: Desk) -> str:
    return desk.copy_of_model(config={"model_type": "bert", "architectures": ["BertForMaskedLM"]})


def _t5(desk: Desk) -> str:
    return desk.copy_of_model(config={"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})


def _own_code(desk: Desk) -> str:
    return desk.copy_of_model(
        config={"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    )


MODELS = [
    Mistake(
        "a folder that is not there",
        "PL100",
        lambda desk: desk.train("dpo", model="./models/tiny"),
        "there is no file or folder './models/tiny'",
        "command line: --model ./models/tiny  model.path",
        "relative paths count from the working directory",
    ),
    Mistake(
        "a misspelt folder",
        "PL301",
        lambda desk: desk.train("dpo", model=desk.copy_of_model("tiny") + "y"),
        "there is no folder 'tinyy' here",
        "model.path",
        "did you mean tiny?",
    ),
    Mistake(
        "a folder without config.json",
        "PL301",
        lambda desk: desk.train("dpo", model=desk.copy_of_model(without=["config.json"])),
        "config.json",
        "copy",
        "give a folder with config.json",
    ),
    Mistake(
        "a folder without a tokenizer",
        "PL301",
        lambda desk: desk.train(
            "dpo", model=desk.copy_of_model(without=["tokenizer.json", "tokenizer_config.json"])
        ),
        "no tokenizer",
        "copy",
        "model.tokenizer",
    ),
    Mistake(
        "an empty folder",
        "PL301",
        lambda desk: ((desk.folder / "empty").mkdir(), desk.train("dpo", model="empty"))[1],
        "config.json",
        "empty",
        "give a folder with config.json",
    ),
    Mistake(
        "an adapter as the model",
        "PL301",
        _adapter_as_model,
        "holds an adapter",
        "adapter",
        "--lora.path adapter",
    ),
    Mistake(
        "an adapter of another base", "PL306", _other_base, "trained on another base model", "adapter",
        "load the base model",
    ),
    Mistake(
        "no adapter where one is named",
        "PL306",
        lambda desk: desk.train("dpo", None, "--lora.path", desk.copy_of_model()),
        "there is no adapter",
        "copy",
        "adapter_config.json",
    ),
    Mistake(
        "a merge of what is merged already", "PL306", _merged_twice,
        "there is no adapter to merge", "merged", "as it is",
    ),
    Mistake(
        "a LoRA target of another architecture",
        "PL306",
        lambda desk: desk.train("dpo", None, "--lora-target-modules", "c_attn"),
        "the model has no module named c_attn",
        "lora.target_modules",
        "q_proj",
    ),
    Mistake(
        "conversations without a chat template",
        "PL208",
        lambda desk: desk.train(
            "sft", _chats(desk), model=desk.copy_of_model(without=["chat_template.jinja"])
        ),
        "the tokenizer has no chat template",
        "copy",
        "model.chat_template",
    ),
    Mistake(
        "a template that is no Jinja",
        "PL208",
        _template("{% for m in messages %}{{ m.content }}"),
        "the chat template is not valid Jinja: Unexpected end of template",
        "line 1 of the chat template",
        "model.chat_template",
    ),
    Mistake(
        "a template that raises",
        "PL204",
        _template("{{ raise_exception('only system turns') }}"),
        "only system turns",
        "chats.jsonl:1",
        "give another chat template (model.chat_template)",
    ),
    Mistake(
        "a template file that is not there",
        "PL100",
        lambda desk: desk.train("sft", _chats(desk), "--chat-template", "chat.jinja"),
        "there is no file or folder 'chat.jinja'",
        "model.chat_template",
        "relative paths",
    ),
    Mistake(
        "an encoder", "PL303", lambda desk: desk.train("dpo", model=_bert(desk)), "bert", "copy",
        "causal language model",
    ),
    Mistake(
        "an encoder-decoder", "PL303", lambda desk: desk.train("dpo", model=_t5(desk)), "encoder-decoder", "copy",
        "causal language model",
    ),
    Mistake(
        "a model with code of its own", "PL301", lambda desk: desk.train("dpo", model=_own_code(desk)), "code",
        "copy", "model.trust_remote_code=true",
    ),
    Mistake(
        "a model that transformers does not know",
        "PL301",
        lambda desk: desk.train("dpo", model=desk.copy_of_model(config={"model_type": "llama9"})),
        "llama9",
        "copy",
        "pip install -U transformers",
    ),
    Mistake(
        "a file that is no GGUF",
        "PL301",
        lambda desk: desk.train("dpo", model=desk.write("tiny.gguf", "no such thing")),
        "not a GGUF file",
        "tiny.gguf",
        "model.path",
    ),
    Mistake(
        "weights in 4 bits", "PL303", _quantised("bitsandbytes"), "quantised (bitsandbytes)", "copy", "unquantised",
    ),
    Mistake("weights of GPTQ", "PL303", _quantised("gptq"), "quantised (gptq)", "copy", "unquantised"),
    Mistake(
        "a download that broke off",
        "PL301",
        lambda desk: desk.train("dpo", model=_broken_weights(desk)),
        "the model cannot be loaded",
        "copy",
        "download",
    ),
    Mistake(
        "a model without weights",
        "PL301",
        lambda desk: desk.train("dpo", model=desk.copy_of_model(without=["model.safetensors"])),
        "no file named model.safetensors",
        "copy",
        "download",
    ),
    Mistake(
        "a tokenizer with more tokens than the model",
        "PL309",
        lambda desk: desk.train("dpo", model=_small_embedding(desk)),
        "the tokenizer has 302 tokens, the model 300, and a row has one of the others: 'blue'",
        "pairs.jsonl:1",
        'model.added_tokens=["blue", "grey"]',
    ),
    Mistake(
        "a reward model as the policy",
        "PL301",
        lambda desk: desk.train("dpo", model=_reward_model(desk)),
        "it writes no text",
        "reward",
        "a causal language model",
    ),
    Mistake(
        "a language model as the reward",
        "PL701",
        lambda desk: desk.train(
            "grpo", desk.write("p.jsonl", [{"prompt": "Which?"}] * 2), "--reward", desk.model, "--max-new-tokens", 8
        ),
        "LlamaForCausalLM gives no rewards",
        "tiny-llama",
        "plaudit reward",
    ),
    Mistake(
        "longer than the model's positions",
        "PL307",
        lambda desk: desk.train("dpo", None, "--max-length", 4096),
        "the model has 256 positions",
        "data.max_length",
        "256 or less",
    ),
    Mistake(
        "a conversation with a model that has no chat template",
        "PL208",
        lambda desk: ["chat", desk.copy_of_model(without=["chat_template.jinja"])],
        "the model has no chat template",
        "copy",
        "plaudit generate --raw",
    ),
    Mistake(
        "a language model is evaluated as a reward model",
        "PL701",
        lambda desk: ["evaluate", "reward", desk.model, desk.pairs()],
        "LlamaForCausalLM gives no rewards",
        "tiny-llama",
        "plaudit reward",
    ),
]  # fmt: skip

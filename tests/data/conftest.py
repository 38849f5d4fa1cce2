"""Small real tokenizers, built in seconds: byte-level BPE with different chat templates."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "What is the capital of France? The capital of France is Paris.",
    "Tell me a joke about cats and dogs, please.",
    "user system assistant tool\n\nhello world, hello there\n",
    "Human: hi\n\nAssistant: hello, how can I help you today?",
    "<think>\nlet me think about the question\n</think>\n\nthe answer is 42",
] * 4
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + "
    "'<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
# keeps the thinking of the last answer only, and shows an empty thought there when it has none (as Qwen3 does)
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' %}"
    "{% set t = '' %}{% if '</think>' in c %}{% set t = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{% if loop.index0 > ns.last %}"
    "{% set c = '<think>\n' + t + '\n</think>\n\n' + c %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# ends the whole conversation with EOS after the end of turn (as Phi-3 does)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# opens a thought in the generation prompt that finished answers do not have (as DeepSeek-R1 does)
OPENS_THOUGHT = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '<|stop|>' + m.content }}"
    "{% if m.role == 'assistant' %}{{ '<|eot|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|><think>\n' }}{% endif %}"
)
PLAIN_MARKS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<|start|>' + m.role + '\n' + m.content + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + c.function | tojson + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# shows only the first half of earlier answers
SHORTENS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('|')[0] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# ends the last answer, earlier turns and tool calls with three different tokens (as gpt-oss does)
THREE_ENDS = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content }}{% if m.tool_calls %}{{ 'add()<|stop|>\n' }}"
    "{% elif loop.last and m.role == 'assistant' %}{{ '<|im_end|>\n' }}{% else %}{{ '<|eot|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "thinking": THINKING,
    "phi": PHI,
    "opens_thought": OPENS_THOUGHT,
    "plain_marks": PLAIN_MARKS,
    "strict": STRICT,
    "tools": TOOLS,
    "shortens": SHORTENS,
    "three_ends": THREE_ENDS,
    "none": None,
}


SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>", "<|user|>", "<|assistant|>"]


@cache
def make_tokenizer(template: str = "chatml", bos: bool = False, pad_is_eos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 tokens; with `bos` it puts BOS before plain text, as Llama's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    if bos:
        ids = [("<s>", backend.token_to_id("<s>"))]
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=ids)
    return _wrapped(backend, template, pad_is_eos)


@cache
def make_trimming_tokenizer(template: str = "none") -> PreTrainedTokenizerFast:
    """Byte-level, with offsets that leave out white space (as GPT-2's do)."""
    backend = Tokenizer.from_str(make_tokenizer(template).backend_tokenizer.to_str())
    backend.post_processor = ByteLevelProcessor(trim_offsets=True)
    return _wrapped(backend, template, pad_is_eos=True)


@cache
def make_space_tokenizer(template: str = "none") -> PreTrainedTokenizerFast:
    """Like Llama-2's: it puts a space before whatever starts a text, and merges over line ends."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", *SPECIAL],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz .,\n?é漢🙂<>|▁"),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return _wrapped(backend, template, pad_is_eos=True)


def _wrapped(backend: Tokenizer, template: str, pad_is_eos: bool) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>" if pad_is_eos else None,
        additional_special_tokens=SPECIAL[2:],
    )
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer

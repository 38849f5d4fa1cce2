"""What the renderer may decide on its own, each decision with the sentence that the report shows for it."""

from __future__ import annotations

NOTES: dict[str, str] = {
    "boundary_merged": "prompt and answer share a token in the joint tokenisation; the prompt ends before that token",
    "boundary_separate": "prompt and answer were tokenised separately: together, the prompt's tokens change",
    "turn_straddle": "a token reaches over the edge of an assistant turn inside a conversation",
    "generation_prompt_differs": "the template's generation prompt is not how it renders an answer; the part they "
    "share is the prompt",
    "no_generation_prompt": "the chat template writes nothing for add_generation_prompt: sampling begins without an "
    "answer's header, which is learned as a part of the answer",
    "history_rewritten": "the template rewrites earlier turns when later ones follow; one group per assistant turn",
    "eos_appended": "the template writes no end-of-turn token; EOS was added after the last answer",
    "no_eos": "the tokenizer has no EOS token, so the model cannot learn where an answer ends",
    "bos_in_text": "the text already starts with BOS; none was added",
    "double_bos": "the rendered text started with two BOS tokens; one was removed",
    "plain_text": "plain text rows: prompt and completion are concatenated and EOS is added; no chat template is used",
    "text_is_sequence": "`text` rows have no prompt: every token is trained",
    "tools_ignored": "the chat template does not show the row's tools to the model",
    "system_ignored": "the chat template does not show the system message to the model",
    "answer_changed": "the chat template shows an answer in other words than the row has (for example without its "
    "thinking)",
    "markers_in_content": "a message contains the template's own turn markers as text; the model sees them as markers",
    "trailing_turns": "the conversation goes on after the last trained answer; the rest was left out",
    "message_keys": "messages carry keys besides role, content and tool calls; they are handed to the chat template",
    "implicit_prompt": "no prompt column: the prefix that chosen and rejected share is the prompt",
    "many_rejected": "a row with several rejected answers became one pair per rejected answer",
    "tied_pair": "the votes on a pair are tied",
    "soft_label": "the row says how likely it is that chosen is better; this takes the place of a certain label",
    "preference_unused": "the row says how likely it is that chosen is better, and this method does not use it: every "
    "label counts as certain",
    "margin_unused": "the row has a margin, and this method does not use it",
    "alpaca_text": "Alpaca rows were written with Alpaca's own text prompt, because the tokenizer has no chat template",
}
"""Key of a note -> what it says. Counts per key are in the data report."""

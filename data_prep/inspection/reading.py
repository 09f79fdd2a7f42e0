"""Token ids as text that reads well, with special tokens standing in it, for every kind of tokenizer.

A decoder joins pieces by its own rules: "##ing" to the word before, "Ġon" and "▁on" as words of their own. What
it does with a piece shows when it decodes the piece behind a mask token: whether a space comes between, and the
text itself, which the beginning of a text would lose.
"""

from collections.abc import Collection, Sequence

from tokenizers import Tokenizer

_UNDECODABLE = "\ufffd"  # of a byte that is no character by itself


class Reader:
    """Decodes for readers. `role_ids`: the tokens that stand between texts, "cls", "sep" and "pad"."""

    def __init__(self, tokenizer: Tokenizer, mask_id: int, role_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._mask_id = mask_id
        self._mask = self.name(mask_id)
        self._role_ids = frozenset(role_ids)

    def name(self, token_id: int) -> str:
        """The token as the vocabulary spells it."""
        return self._tokenizer.id_to_token(token_id) or f"<{token_id}>"

    def plain(self, ids: Sequence[int]) -> str:
        """Text, unknown tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False).strip()

    def word(self, token_id: int) -> str:
        """One token without the space before it; a part of a character as the vocabulary spells it."""
        text = self._behind_mask([token_id]).strip()
        return self.name(token_id) if _UNDECODABLE in text or not text else text

    def marked(self, ids: Sequence[int], originals: Sequence[int]) -> str:
        """`ids` as text, e.g. "[CLS] the [MASK] sat [SEP]"; `originals`, before masking, decide about spaces."""
        text, run = "", list[int]()
        for token_id, original in zip(ids, originals, strict=True):
            if token_id != self._mask_id and token_id not in self._role_ids:
                run.append(token_id)
                continue
            text, run = self._joined(text, run), []
            is_apart = token_id != self._mask_id or self._behind_mask([original]).startswith(" ")
            text = text.rstrip() + (" " if is_apart and text else "") + self.name(token_id)
            text += " " if token_id in self._role_ids else ""
        return self._joined(text, run).strip()

    def _joined(self, text: str, run: list[int]) -> str:
        more = self._behind_mask(run) if run else ""
        return text + (more.lstrip() if text.endswith(" ") else more)

    def _behind_mask(self, ids: list[int]) -> str:
        """The text of tokens that follow a mask, with the space between if there is one."""
        text = self._tokenizer.decode([self._mask_id, *ids], skip_special_tokens=False)
        return text.removeprefix(self._mask) if text.startswith(self._mask) else f" {text}"

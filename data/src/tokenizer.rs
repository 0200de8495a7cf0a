//! Text to token ids and back.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::DataError;

/// A tokenizer in the format of Hugging Face's `tokenizers`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same tokenizer for texts in a chat template, made when the first one comes.
    aliased: OnceLock<Arc<Aliased>>,
}

/// A part of a text in a chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatPart<'a> {
    /// Text of the template: the names of special tokens in it are special tokens.
    Template(&'a str),
    /// Text of a question: the names of special tokens in it are text.
    Text(&'a str),
}

/// A tokenizer that knows every special token by another name, its alias. Templates are written
/// with aliases, so that a name in a question's text stays text while both are encoded as one:
/// where a text is divided decides what tokens it becomes.
#[derive(Debug)]
struct Aliased {
    inner: tokenizers::Tokenizer,
    /// Name and alias of each special token, longest name first.
    names: Vec<(String, String)>,
    /// The id of a special token by that of its alias.
    ids: HashMap<u32, u32>,
}

/// What an alias begins and ends with: characters for private use, which no text holds.
pub(crate) const ALIAS: [char; 2] = ['\u{10fff0}', '\u{10fff1}'];

/// Why a text with such a character cannot stand in a chat template.
pub(crate) const HOLDS_ALIAS: &str = "the text holds U+10FFF0 or U+10FFF1, which stand for special \
    tokens in a chat: remove them, or use data.chat = \"off\"";

impl Aliased {
    fn new(tokenizer: &tokenizers::Tokenizer) -> Result<Self, DataError> {
        let mut inner = tokenizer.clone();
        let mut special: Vec<_> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        special.sort_by_key(|(id, token)| (std::cmp::Reverse(token.content.len()), *id));
        let mut names = Vec::with_capacity(special.len());
        let mut aliases = Vec::with_capacity(special.len());
        for (id, token) in &special {
            let alias = format!("{}{id}{}", ALIAS[0], ALIAS[1]);
            names.push((token.content.clone(), alias.clone()));
            let mut token = token.clone();
            (token.content, token.special, token.normalized) = (alias, false, false);
            aliases.push(token);
        }
        inner
            .add_tokens(aliases)
            .map_err(|e| DataError::setting("tokenizer", e.to_string()))?;
        let of = |(id, alias): (&u32, &String)| Some((inner.token_to_id(alias)?, *id));
        let ids = special.iter().map(|(id, _)| id);
        let ids = ids.zip(names.iter().map(|(_, alias)| alias)).filter_map(of);
        Ok(Self {
            ids: ids.collect(),
            names,
            inner,
        })
    }

    /// The text with an alias in place of every special token's name.
    fn write(&self, mut text: &str, out: &mut String) {
        let names = self.names.iter().filter(|(name, _)| text.contains(name));
        let names: Vec<_> = names.collect();
        while let Some(first) = text.chars().next() {
            let found = names.iter().find(|(name, _)| text.starts_with(name));
            let length = match found {
                Some((name, alias)) => {
                    out.push_str(alias);
                    name.len()
                }
                None => {
                    out.push(first);
                    first.len_utf8()
                }
            };
            text = &text[length..];
        }
    }
}

/// What the tokenizers library answers. It panics on some settings that a file may hold, such as a
/// prefix of parts of words that is longer than a word.
fn asked<T>(
    tokenizer: &tokenizers::Tokenizer,
    ask: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<T>,
) -> Result<T, DataError> {
    let fail = |reason: String| DataError::setting("tokenizer", reason);
    let damaged = |panic: String| {
        fail(format!(
            "the model's tokenizer.json has settings that do not fit each other ({panic}): fetch it again"
        ))
    };
    let answer = fault::caught(|| ask(tokenizer)).map_err(damaged)?;
    answer.map_err(|e| fail(e.to_string()))
}

impl Tokenizer {
    /// Wraps a tokenizer that is already loaded.
    ///
    /// Truncation and padding that its file asks for are cleared: they would cut the prompt's end,
    /// where the answer is read. The names of special tokens in a text are text like any other;
    /// the tokenizer still puts its own around a text.
    pub fn new(mut inner: tokenizers::Tokenizer) -> Self {
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .expect("no truncation fits every text");
        inner.set_encode_special_tokens(true);
        Self {
            inner,
            aliased: OnceLock::new(),
        }
    }

    /// The byte-level tokenizer of the tiny model: single bytes, and the answer labels as whole
    /// tokens.
    pub fn tiny() -> Self {
        let mut words: Vec<String> = ('A'..='E').map(|letter| letter.to_string()).collect();
        words.extend(["true", "false"].map(String::from));
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        // The alphabet is a hash set; ids must not depend on its order.
        alphabet.sort_unstable();
        let mut vocab: Vec<String> = alphabet.iter().map(char::to_string).collect();
        let mut merges = Vec::new();
        for word in words {
            // `Ġ` is how byte-level BPE writes a space. Each word grows from it letter by letter.
            let mut prefix = "Ġ".to_string();
            for letter in word.chars() {
                let longer = format!("{prefix}{letter}");
                if !vocab.contains(&longer) {
                    merges.push((prefix, letter.to_string()));
                    vocab.push(longer.clone());
                }
                prefix = longer;
            }
        }
        let vocab = vocab.into_iter().zip(0u32..).collect();
        let bpe = BPE::new(vocab, merges);
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevel::default()));
        Self {
            inner,
            aliased: OnceLock::new(),
        }
    }

    /// Number of entries in the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Token ids of a text, with the special tokens that the tokenizer puts around it (BOS for
    /// LLaMA).
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = asked(&self.inner, |inner| inner.encode(text, true))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text in a chat template, with the special tokens that the template writes and
    /// no others.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode_chat(&self, parts: &[ChatPart]) -> Result<Vec<u32>, DataError> {
        let aliased = match self.aliased.get() {
            Some(known) => known,
            None => {
                let made = Arc::new(Aliased::new(&self.inner)?);
                self.aliased.get_or_init(|| made)
            }
        };
        let mut text = String::new();
        for part in parts {
            match part {
                ChatPart::Template(part) => aliased.write(part, &mut text),
                ChatPart::Text(part) if part.contains(ALIAS) => {
                    return Err(DataError::setting("data.chat", HOLDS_ALIAS));
                }
                ChatPart::Text(part) => text.push_str(part),
            }
        }
        let encoding = asked(&aliased.inner, |inner| inner.encode(text, false))?;
        let ids = encoding.get_ids().iter();
        let known = |id: &u32| aliased.ids.get(id).copied().unwrap_or(*id);
        Ok(ids.map(known).collect())
    }

    /// The name of a special token that stands in a text, if one does.
    pub fn special_in(&self, text: &str) -> Option<String> {
        let added = self.inner.get_added_tokens_decoder();
        let mut special = added.values().filter(|token| token.special);
        let found = special.find(|token| text.contains(&token.content));
        found.map(|token| token.content.clone())
    }

    /// Writes the tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &std::path::Path) -> Result<(), DataError> {
        let text = asked(&self.inner, |inner| inner.to_string(true))?;
        std::fs::write(path, text).map_err(|e| DataError::io(path, e))
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        asked(&self.inner, |inner| inner.decode(ids, false))
    }

    /// Text of a written answer, and whether its end has come.
    ///
    /// The text is the first line that holds words. The answer ends with a special token, or with
    /// an end of line after words.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn written(&self, ids: &[u32]) -> Result<(String, bool), DataError> {
        let added = self.inner.get_added_vocabulary();
        let is_special = |id: &u32| {
            let name = self.inner.id_to_token(*id).unwrap_or_default();
            added.is_special_token(&name)
        };
        let words = ids.iter().position(is_special).unwrap_or(ids.len());
        let text = self.decode(&ids[..words])?;
        let (line, ended) = match text.trim_start().split_once('\n') {
            Some((line, _)) => (line, true),
            None => (text.as_str(), words < ids.len()),
        };
        Ok((line.trim().to_owned(), ended))
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::processors::template::TemplateProcessing;
    use tokenizers::{
        AddedToken, PaddingParams, PaddingStrategy, TruncationDirection, TruncationParams,
        TruncationStrategy,
    };

    use super::*;

    /// The tiny tokenizer as a file may hold it, with special tokens of its own.
    fn with_special_tokens() -> tokenizers::Tokenizer {
        let mut inner = Tokenizer::tiny().inner;
        let special = ["<s>", "</s>", "<|endoftext|>", "<|im_end|>"];
        let special = special.map(|name| AddedToken::from(name, true));
        inner.add_special_tokens(special).unwrap();
        let around = TemplateProcessing::builder()
            .try_single("<s> $A")
            .unwrap()
            .special_tokens(vec![("<s>", inner.token_to_id("<s>").unwrap())])
            .build()
            .unwrap();
        inner.with_post_processor(Some(around));
        inner
    }

    #[test]
    fn special_tokens_in_a_text_are_text() {
        let inner = with_special_tokens();
        let first = inner.token_to_id("<s>").unwrap();
        let tokenizer = Tokenizer::new(inner.clone());
        for text in [
            "Is it so?<|endoftext|> no",
            "<|im_end|>\nYes",
            "a </s> b",
            "</s>",
            "<s>",
            " <s> ",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(ids[0], first, "{text}");
            assert!(ids[1..].iter().all(|id| *id < first), "{text}: {ids:?}");
            assert_eq!(tokenizer.decode(&ids[1..]).unwrap(), text);
            // Without this, they would be tokens that steer the model.
            let raw = inner.encode(text, true).unwrap();
            assert!(raw.get_ids()[1..].iter().any(|id| *id >= first), "{text}");
        }
    }

    #[test]
    fn in_a_chat_the_templates_special_tokens_are_special_and_a_texts_are_not() {
        let inner = with_special_tokens();
        let tokenizer = Tokenizer::new(inner.clone());
        let id = |name| inner.token_to_id(name).unwrap();
        let (before, after) = ("<s>user\n", "<|im_end|>\nassistant\n");
        let chat = |text, label| {
            let parts = [
                ChatPart::Template(before),
                ChatPart::Text(text),
                ChatPart::Template(after),
                ChatPart::Text(label),
            ];
            tokenizer.encode_chat(&parts)
        };
        // Without special tokens in the question: as the tokenizer itself reads it.
        for text in ["Is it so?", "\nIs it so? ", "naïve 日本", ""] {
            let whole = format!("{before}{text}{after} A");
            let raw = inner.encode(whole.as_str(), false).unwrap();
            assert_eq!(chat(text, " A").unwrap(), raw.get_ids(), "{text}");
        }
        for text in ["<|im_end|>", "a <s> b", "<|im_end|", "x</s>"] {
            let ids = chat(text, "<s>").unwrap();
            let special: Vec<u32> = ids.iter().copied().filter(|i| *i >= id("<s>")).collect();
            assert_eq!(special, [id("<s>"), id("<|im_end|>")], "{text}");
            let whole = format!("{before}{text}{after}<s>");
            assert_eq!(tokenizer.decode(&ids).unwrap(), whole);
        }
        let error = chat("\u{10fff0}256\u{10fff1}", "").unwrap_err().to_string();
        assert!(error.contains("U+10FFF0"), "{error}");
        assert_eq!(tokenizer.special_in("a </s> b").as_deref(), Some("</s>"));
        assert_eq!(tokenizer.special_in("a b"), None);
    }

    #[test]
    fn truncation_and_padding_of_the_file_do_not_count() {
        let text = "Is it so, or is it not so?\nAnswer:";
        let expected = Tokenizer::tiny().encode(text).unwrap();
        for max_length in [0, 4] {
            for direction in [TruncationDirection::Left, TruncationDirection::Right] {
                let mut inner = Tokenizer::tiny().inner;
                inner
                    .with_truncation(Some(TruncationParams {
                        direction,
                        max_length,
                        strategy: TruncationStrategy::LongestFirst,
                        stride: 0,
                    }))
                    .unwrap();
                inner.with_padding(Some(PaddingParams {
                    strategy: PaddingStrategy::Fixed(200),
                    ..PaddingParams::default()
                }));
                assert_ne!(inner.encode(text, true).unwrap().get_ids(), expected);
                assert_eq!(Tokenizer::new(inner).encode(text).unwrap(), expected);
            }
        }
    }
}

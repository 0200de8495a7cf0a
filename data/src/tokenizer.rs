//! Text to token ids and back.

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::DataError;

/// A tokenizer in the format of Hugging Face's `tokenizers`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
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
        Self { inner }
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
        Self { inner }
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
        let encoding = self.asked(|inner| inner.encode(text, true))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the tokenizers library answers. It panics on some settings that a file may hold, such
    /// as a prefix of parts of words that is longer than a word.
    fn asked<T>(
        &self,
        ask: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<T>,
    ) -> Result<T, DataError> {
        let fail = |reason: String| DataError::setting("tokenizer", reason);
        let damaged = |panic: String| {
            fail(format!(
                "the model's tokenizer.json has settings that do not fit each other ({panic}): fetch it again"
            ))
        };
        let answer = fault::caught(|| ask(&self.inner)).map_err(damaged)?;
        answer.map_err(|e| fail(e.to_string()))
    }

    /// Writes the tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &std::path::Path) -> Result<(), DataError> {
        let text = self.asked(|inner| inner.to_string(true))?;
        std::fs::write(path, text).map_err(|e| DataError::io(path, e))
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.asked(|inner| inner.decode(ids, false))
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

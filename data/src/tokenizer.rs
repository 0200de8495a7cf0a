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
    pub fn new(inner: tokenizers::Tokenizer) -> Self {
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
        self.inner
            .encode(text, true)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| DataError::setting("tokenizer", e.to_string()))
    }

    /// Writes the tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &std::path::Path) -> Result<(), DataError> {
        let text = self.inner.to_string(true);
        let fail = |reason: String| DataError::File {
            path: path.into(),
            reason,
        };
        let text = text.map_err(|e| fail(e.to_string()))?;
        std::fs::write(path, text).map_err(|e| DataError::io(path, e))
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner
            .decode(ids, false)
            .map_err(|e| DataError::setting("tokenizer", e.to_string()))
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

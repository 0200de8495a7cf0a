//! Text to ids, and the check that an answer label is one token where it is read.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::{LabelStyle, Normalization, Prompt, Rendering, Scoring};

/// A tokenizer with what the data needs to know about it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// A question as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedQuestion {
    /// Stable name of the row.
    pub id: String,
    /// The prompt's ids; the answer is read after the last.
    pub prompt: Vec<u32>,
    /// One a choice.
    pub choices: Vec<Continuation>,
    /// Index of the right answer.
    pub answer: usize,
    /// The prompt was too long and lost a part of its question or passage.
    pub shortened: bool,
    /// Where the model writes the answer itself, its one choice is what training appends. Absent where it chooses.
    pub open: Option<OpenEnded>,
    /// The choices' last tokens are computed too, not only predicted: for what is read from the choices themselves.
    pub whole_choices: bool,
}

/// What is known of an answer to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenEnded {
    /// The texts that count as right; none if that is not known.
    pub accepted: Vec<String>,
    /// Tokens of the longest answer that may be written.
    pub answer_tokens: usize,
    /// The answer that training appends is longer and was cut: the model can never write it to its end.
    pub cut: bool,
}

/// A choice as it follows the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// Its ids: one for a label, one or more for a text.
    pub tokens: Vec<u32>,
    /// What its log-likelihood is multiplied by.
    pub weight: f32,
}

impl EncodedQuestion {
    /// A question whose choices are labels of one token.
    pub fn lettered(id: &str, prompt: Vec<u32>, labels: &[u32], answer: usize) -> Self {
        let choice = |id: &u32| Continuation {
            tokens: vec![*id],
            weight: 1.0,
        };
        Self {
            id: id.into(),
            prompt,
            choices: labels.iter().map(choice).collect(),
            answer,
            shortened: false,
            open: None,
            whole_choices: false,
        }
    }

    /// The prompt alone, for the model to go on.
    pub fn prompt_only(&self) -> Self {
        let mut alone = self.clone();
        alone.whole_choices = false;
        for choice in &mut alone.choices {
            choice.tokens.truncate(1);
        }
        alone
    }

    /// Tokens that it takes in a batch that is asked: those computed, and room for the answer where it is to be written.
    pub fn asked_length(&self) -> usize {
        let answer = self.open.as_ref().map_or(0, |open| open.answer_tokens);
        self.length() + answer
    }

    /// Tokens that the model computes: the prompt, and of each choice what is [`Self::computed`].
    pub fn length(&self) -> usize {
        let branches = self.choices.iter().map(|c| self.computed(c).len());
        self.prompt.len() + branches.sum::<usize>()
    }

    /// The tokens of a choice that the model computes: all but the last, which is only predicted, unless choices are wanted whole.
    pub fn computed<'a>(&self, choice: &'a Continuation) -> &'a [u32] {
        let all = choice.tokens.as_slice();
        &all[..all.len() - usize::from(!self.whole_choices)]
    }

    /// Positions that it takes: every choice begins again at the prompt's end.
    pub fn positions(&self) -> usize {
        let longest = self.choices.iter().map(|c| c.tokens.len()).max();
        self.prompt.len() + longest.unwrap_or(0)
    }

    /// Every id in it.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let choices = self.choices.iter().flat_map(|c| &c.tokens);
        self.prompt.iter().chain(choices).copied()
    }
}

/// The ids of labels by the end of the prompt they follow: the text before the tail cannot change them.
type LabelCache = HashMap<(String, Vec<String>), Vec<Vec<u32>>>;

impl Tokenizer {
    /// Wraps a tokenizer.
    pub fn new(inner: tokenizers::Tokenizer) -> Self {
        Self { inner }
    }

    /// The byte-level tokenizer of the tiny model: single bytes, and the answer labels as whole tokens.
    pub fn tiny() -> Self {
        let mut words: Vec<String> = ('A'..='E').map(|letter| letter.to_string()).collect();
        words.extend(["true", "false"].map(String::from));
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        // The alphabet is a hash set; ids must not depend on its order.
        alphabet.sort_unstable();
        let mut vocab: Vec<String> = alphabet.iter().map(char::to_string).collect();
        let mut merges = Vec::new();
        for word in words {
            // `Ġ` is how byte-level BPE writes a space; each word grows from it one letter at a time.
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

    /// Entries of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Ids of a text, with the special tokens that the tokenizer puts around it (BOS for LLaMA).
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.inner
            .encode(text, true)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| DataError::setting("tokenizer", e.to_string()))
    }

    /// Writes `tokenizer.json`.
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

    /// Text of ids.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner
            .decode(ids, false)
            .map_err(|e| DataError::setting("tokenizer", e.to_string()))
    }

    /// The text of a written answer, its first line of words, and whether its end has come: a special id, or an end of line after words.
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

    /// Renders and encodes questions; prompts over `max_tokens` (with their longest choice) lose the end of their question or
    /// passage, never the tail.
    ///
    /// # Errors
    /// A label that is not one token after the prompt, two labels with one id, or a prompt whose fixed part alone is too long.
    pub fn encode_questions(
        &self,
        questions: &[MultipleChoice],
        rendering: &Rendering,
        max_tokens: usize,
    ) -> Result<Vec<EncodedQuestion>, DataError> {
        let prompts: Vec<Prompt> = questions.iter().map(|q| rendering.render(q)).collect();
        self.encode_prompts(questions.iter().zip(&prompts), rendering, max_tokens)
    }

    /// Encodes prompts that are already rendered, with their questions.
    ///
    /// # Errors
    /// As [`Self::encode_questions`].
    pub fn encode_prompts<'a>(
        &self,
        prompts: impl Iterator<Item = (&'a MultipleChoice, &'a Prompt)>,
        rendering: &Rendering,
        max_tokens: usize,
    ) -> Result<Vec<EncodedQuestion>, DataError> {
        let mut cache = LabelCache::new();
        prompts
            .map(|(question, prompt)| {
                self.encode_prompt(question, prompt, rendering, max_tokens, &mut cache)
            })
            .collect()
    }

    fn encode_prompt(
        &self,
        question: &MultipleChoice,
        prompt: &Prompt,
        rendering: &Rendering,
        max_tokens: usize,
        cache: &mut LabelCache,
    ) -> Result<EncodedQuestion, DataError> {
        let written = rendering.labels == LabelStyle::Written;
        // An answer of several tokens is their mean log-likelihood, however choices are scored.
        let (scoring, normalization) = match written {
            true => (Scoring::Cloze, Normalization::Token),
            false => (rendering.scoring, rendering.normalization),
        };
        let mut texts = match scoring {
            Scoring::Letters => self.labels(prompt, cache)?,
            Scoring::Cloze => self.continuations(prompt, &question.id)?,
        };
        let whole_choices = rendering.whole_choices && scoring == Scoring::Cloze && !written;
        // Room for what is written is not the prompt's.
        let beyond = match written {
            true => 0,
            false => {
                let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
                longest - usize::from(!whole_choices)
            }
        };
        let longest = rendering.answer_tokens;
        let open = written.then(|| OpenEnded {
            accepted: question.choices.clone(),
            answer_tokens: longest,
            cut: texts.iter().any(|answer| answer.len() > longest),
        });
        if written {
            texts.iter_mut().for_each(|answer| answer.truncate(longest));
        }
        let (ids, shortened) = self.fit(prompt, max_tokens.saturating_sub(beyond), &question.id)?;
        let weigh = |(tokens, text): (Vec<u32>, &String)| Continuation {
            weight: match (scoring, normalization) {
                (Scoring::Letters, _) | (_, Normalization::Sum) => 1.0,
                (_, Normalization::Token) => 1.0 / tokens.len() as f32,
                (_, Normalization::Character) => 1.0 / text.trim().chars().count().max(1) as f32,
            },
            tokens,
        };
        Ok(EncodedQuestion {
            id: question.id.clone(),
            choices: texts.into_iter().zip(&prompt.labels).map(weigh).collect(),
            prompt: ids,
            answer: if written { 0 } else { question.answer },
            shortened,
            open,
            whole_choices,
        })
    }

    /// The ids of each choice's text in context.
    fn continuations(&self, prompt: &Prompt, id: &str) -> Result<Vec<Vec<u32>>, DataError> {
        let text = stand_in(prompt);
        let base = self.encode(&text)?;
        prompt
            .labels
            .iter()
            .map(|label| {
                let longer = self.encode(&format!("{text}{label}"))?;
                match longer.strip_prefix(base.as_slice()) {
                    Some(grown) if !grown.is_empty() => Ok(grown.to_vec()),
                    _ => Err(DataError::setting(
                        "data.scoring",
                        format!(
                            "row {id}: the answer {label:?} does not follow {:?} as tokens of its own: use scoring = \"letters\", where there are choices, or another model",
                            prompt.tail
                        ),
                    )),
                }
            })
            .collect()
    }

    /// The prompt's ids, at most `max_tokens` of them.
    fn fit(
        &self,
        prompt: &Prompt,
        max_tokens: usize,
        id: &str,
    ) -> Result<(Vec<u32>, bool), DataError> {
        let ids = self.encode(&prompt.text())?;
        if ids.len() <= max_tokens {
            return Ok((ids, false));
        }
        let words: Vec<&str> = prompt.shortenable.split_inclusive(' ').collect();
        let with = |kept: usize| {
            let shortenable = words[..kept].concat().trim_end().to_owned();
            self.encode(&[&*prompt.head, &shortenable, &prompt.tail].concat())
        };
        // The most words that fit; the length grows with them.
        let (mut fits, mut too_many) = (0, words.len());
        let mut best = with(0)?;
        if best.len() > max_tokens {
            return Err(DataError::setting(
                "max_tokens",
                format!(
                    "row {id}: its choices alone need {} tokens, the limit is {max_tokens}: raise data.max_tokens",
                    best.len()
                ),
            ));
        }
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            let ids = with(middle)?;
            if ids.len() <= max_tokens {
                (fits, best) = (middle, ids);
            } else {
                too_many = middle;
            }
        }
        Ok((best, true))
    }

    /// The id of each label in context: what the prompt's encoding grows by when the label is appended.
    fn labels(&self, prompt: &Prompt, cache: &mut LabelCache) -> Result<Vec<Vec<u32>>, DataError> {
        let end: String = {
            let mut last: Vec<char> = prompt.tail.chars().rev().take(12).collect();
            last.reverse();
            last.into_iter().collect()
        };
        let key = (end, prompt.labels.clone());
        if let Some(known) = cache.get(&key) {
            return Ok(known.clone());
        }
        let text = stand_in(prompt);
        let base = self.encode(&text)?;
        let mut found: Vec<u32> = Vec::new();
        for label in &prompt.labels {
            let longer = self.encode(&format!("{text}{label}"))?;
            let grown = longer.strip_prefix(base.as_slice());
            let &[id] = grown.unwrap_or_default() else {
                return Err(DataError::setting(
                    "answer label",
                    format!(
                        "{label:?} after {:?} must be one token, but it is {:?}: use another template or model",
                        prompt.tail,
                        grown.map(|g| g.len()),
                    ),
                ));
            };
            if let Some(twin) = found.iter().position(|known| *known == id) {
                return Err(DataError::setting(
                    "answer label",
                    format!(
                        "{label:?} and {:?} are the same token {id}: use another template or model",
                        prompt.labels[twin]
                    ),
                ));
            }
            found.push(id);
        }
        let found: Vec<Vec<u32>> = found.into_iter().map(|id| vec![id]).collect();
        cache.insert(key, found.clone());
        Ok(found)
    }
}

/// A short stand-in for the prompt with the same end.
fn stand_in(prompt: &Prompt) -> String {
    format!("{}{}", prompt.head, prompt.tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{LabelStyle, Template};

    const LETTERS: Rendering = Rendering {
        template: Template::MoePeft,
        labels: LabelStyle::Choice,
        scoring: Scoring::Letters,
        normalization: Normalization::Token,
        answer_tokens: 16,
        whole_choices: false,
    };

    fn question(text: &str) -> MultipleChoice {
        MultipleChoice {
            id: "q".into(),
            question: text.into(),
            passage: None,
            choices: vec!["true".into(), "false".into()],
            answer: 1,
            group: None,
            written: false,
        }
    }

    #[test]
    fn the_tiny_tokenizer_keeps_labels_whole_and_text_intact() {
        let tokenizer = Tokenizer::tiny();
        let text = "Is it so?\nAnswer: true or false, A to E: naïve 日本";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let encoded = tokenizer
            .encode_questions(&[question("x")], &LETTERS, 200)
            .unwrap();
        assert_eq!(encoded[0].choices.len(), 2);
        assert_ne!(encoded[0].choices[0], encoded[0].choices[1]);
    }

    #[test]
    fn whole_choices_leave_room_for_their_last_token() {
        let tokenizer = Tokenizer::tiny();
        for whole_choices in [false, true] {
            let cloze = Rendering {
                labels: LabelStyle::Letter,
                scoring: Scoring::Cloze,
                whole_choices,
                ..LETTERS
            };
            // Some of these lengths fill the room to its last position.
            let mut fullest = 0;
            for length in 1..40 {
                let mut long = question(&"a ".repeat(length));
                long.choices = vec!["yes indeed".into(), "no".into()];
                let found = tokenizer.encode_questions(&[long], &cloze, 60).unwrap();
                let computed = found[0].choices.iter().map(|c| found[0].computed(c).len());
                let positions = found[0].prompt.len() + computed.max().unwrap();
                assert!(positions <= 60, "{positions}");
                fullest = fullest.max(positions);
            }
            assert!(fullest > 57, "{fullest}");
        }
    }

    #[test]
    fn a_long_question_is_shortened_and_the_tail_survives() {
        let tokenizer = Tokenizer::tiny();
        let long = question(&"word ".repeat(100));
        let encoded = tokenizer
            .encode_questions(std::slice::from_ref(&long), &LETTERS, 120)
            .unwrap();
        let ids = &encoded[0].prompt;
        assert!(ids.len() <= 120 && ids.len() > 110 && encoded[0].shortened);
        let text = tokenizer.decode(ids).unwrap();
        assert!(text.ends_with("word?\nAnswer:"), "{text}");
        let error = tokenizer
            .encode_questions(&[long], &LETTERS, 20)
            .unwrap_err();
        assert!(error.to_string().contains("row q"), "{error}");
    }

    #[test]
    fn labels_that_are_not_one_token_are_refused() {
        let tokenizer = Tokenizer::tiny();
        let mut bad = question("x");
        bad.choices[1] = "maybe".into();
        let error = tokenizer
            .encode_questions(&[bad], &LETTERS, 200)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\" maybe\"") && error.contains("one token"),
            "{error}"
        );
        let mut twins = question("x");
        twins.choices[1] = "true".into();
        let error = tokenizer
            .encode_questions(&[twins], &LETTERS, 200)
            .unwrap_err()
            .to_string();
        assert!(error.contains("same token"), "{error}");
    }

    #[test]
    fn cloze_takes_the_choices_texts_as_they_follow_the_prompt() {
        let tokenizer = Tokenizer::tiny();
        let mut choice = question("What melts");
        choice.choices = vec!["ice at 0".into(), "ash".into()];
        for (normalization, weights) in [
            (Normalization::Token, [1.0 / 9.0, 1.0 / 4.0]),
            (Normalization::Character, [1.0 / 8.0, 1.0 / 3.0]),
            (Normalization::Sum, [1.0, 1.0]),
        ] {
            let rendering = Rendering {
                labels: LabelStyle::Letter,
                scoring: Scoring::Cloze,
                normalization,
                ..LETTERS
            };
            let questions = std::slice::from_ref(&choice);
            let encoded = &tokenizer
                .encode_questions(questions, &rendering, 200)
                .unwrap()[0];
            let text = |ids: &[u32]| tokenizer.decode(ids).unwrap();
            assert_eq!(text(&encoded.prompt), "Question: What melts\nAnswer:");
            assert_eq!(text(&encoded.choices[0].tokens), " ice at 0");
            let found: Vec<f32> = encoded.choices.iter().map(|c| c.weight).collect();
            assert_eq!(found, weights);
            let prompt = encoded.prompt.len();
            assert_eq!(
                (encoded.length(), encoded.positions()),
                (prompt + 11, prompt + 9)
            );
            let short = &tokenizer
                .encode_questions(questions, &rendering, prompt + 4)
                .unwrap()[0];
            assert!(short.shortened && short.positions() <= prompt + 5);
        }
    }
}

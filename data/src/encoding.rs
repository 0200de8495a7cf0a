//! Questions to token ids, and the check that an answer label is one token where it is read.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::encoded::{Continuation, EncodedQuestion, OpenEnded};
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::prompt::{LabelStyle, Prompt};
use crate::rendering::{Normalization, Rendering, Scoring};
use crate::tokenizer::{ChatPart, Tokenizer};

/// A question that cannot be asked, whatever is cut of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unaskable {
    /// Name of the question.
    pub id: String,
    /// What does not fit.
    pub reason: String,
}

/// The ids of labels by the end of the prompt that they follow: the text before the tail cannot
/// change them.
type LabelCache = HashMap<(String, Vec<String>), Vec<Vec<u32>>>;

impl Tokenizer {
    /// Renders questions and encodes them.
    ///
    /// A prompt that needs more than `max_tokens` with its longest choice loses the end of its
    /// question or passage, never the tail: at a word's end, or inside of what no white space
    /// divides.
    ///
    /// # Errors
    /// A label that is not one token after the prompt, two labels with one id, or a prompt whose
    /// fixed part alone is too long.
    pub fn encode_questions(
        &self,
        questions: &[MultipleChoice],
        rendering: &Rendering,
        max_tokens: usize,
    ) -> Result<Vec<EncodedQuestion>, DataError> {
        let prompts = questions
            .iter()
            .map(|question| rendering.render(question))
            .collect::<Result<Vec<Prompt>, _>>()?;
        self.encode_prompts(questions.iter().zip(&prompts), rendering, max_tokens)
    }

    /// Renders questions and encodes those that can be asked. The others come back with the reason.
    ///
    /// # Errors
    /// What concerns all questions alike: a label that is not one token, two labels with one id.
    pub fn encode_askable(
        &self,
        questions: &[MultipleChoice],
        rendering: &Rendering,
        max_tokens: usize,
    ) -> Result<(Vec<EncodedQuestion>, Vec<Unaskable>), DataError> {
        let mut cache = LabelCache::new();
        let (mut encoded, mut unaskable) = (Vec::new(), Vec::new());
        for question in questions {
            let found = rendering.render(question).and_then(|prompt| {
                self.encode_prompt(question, &prompt, rendering, max_tokens, &mut cache)
            });
            match found {
                Ok(question) => encoded.push(question),
                Err(DataError::Question { id, reason }) => {
                    unaskable.push(Unaskable { id, reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((encoded, unaskable))
    }

    /// Encodes prompts that are already rendered, each beside its question.
    ///
    /// # Errors
    /// The errors of [`Self::encode_questions`].
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
        let (ids, shortened) = self.fit(prompt, max_tokens, beyond, &question.id)?;
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
        let base = self.stand_in(prompt, "")?;
        prompt
            .labels
            .iter()
            .map(|label| {
                let longer = self.stand_in(prompt, label)?;
                match longer.strip_prefix(base.as_slice()) {
                    Some(grown) if !grown.is_empty() => Ok(grown.to_vec()),
                    _ => Err(DataError::Question {
                        id: id.into(),
                        reason: format!(
                            "the answer {label:?} does not follow {:?} as tokens of its own: use data.scoring = \"letters\", where there are choices, or another model",
                            end(prompt)
                        ),
                    }),
                }
            })
            .collect()
    }

    /// The prompt's ids, at most `max_tokens` of them with the `beyond` that come after.
    fn fit(
        &self,
        prompt: &Prompt,
        max_tokens: usize,
        beyond: usize,
        id: &str,
    ) -> Result<(Vec<u32>, bool), DataError> {
        let ids = self.encode_prompt_text(prompt)?;
        let room = max_tokens.saturating_sub(beyond);
        if (1..=room).contains(&ids.len()) {
            return Ok((ids, false));
        }
        let parts = parts(&prompt.shortenable);
        let with = |kept: usize| {
            let shortenable = parts[..kept].concat();
            let question = prompt.question_with(shortenable.trim_end());
            self.encode_framed(prompt, &question, "")
        };
        let needs = match prompt.has_examples() {
            true => "its choices and the examples before it alone need",
            false => "its choices alone need",
        };
        let remedy = match prompt.has_examples() {
            true => "lower data.shots, or raise data.max_tokens",
            false => "raise data.max_tokens",
        };
        // The most parts that fit; the length grows with them.
        let (mut fits, mut too_many) = (0, parts.len());
        let mut best = with(0)?;
        if best.len() > room {
            return Err(DataError::Question {
                id: id.into(),
                reason: format!(
                    "{needs} {} tokens, the limit is {max_tokens}: {remedy}, if the model takes as many",
                    best.len() + beyond
                ),
            });
        }
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            let ids = with(middle)?;
            if ids.len() <= room {
                (fits, best) = (middle, ids);
            } else {
                too_many = middle;
            }
        }
        // The answer is read behind the prompt's last token.
        if best.is_empty() {
            let reason = match ids.is_empty() {
                true => "the tokenizer makes no token of its prompt: take another model".into(),
                false => format!(
                    "nothing of it fits into the {room} tokens that its choices leave of {max_tokens}: {remedy}, if the model takes as many"
                ),
            };
            return Err(DataError::Question {
                id: id.into(),
                reason,
            });
        }
        Ok((best, true))
    }

    /// The id of each label in context: what the prompt's encoding grows by when the label is
    /// appended.
    fn labels(&self, prompt: &Prompt, cache: &mut LabelCache) -> Result<Vec<Vec<u32>>, DataError> {
        let key = (end(prompt).into(), prompt.labels.clone());
        if let Some(known) = cache.get(&key) {
            return Ok(known.clone());
        }
        let base = self.stand_in(prompt, "")?;
        let mut found: Vec<u32> = Vec::new();
        for label in &prompt.labels {
            let longer = self.stand_in(prompt, label)?;
            let grown = longer.strip_prefix(base.as_slice());
            let &[id] = grown.unwrap_or_default() else {
                return Err(DataError::setting(
                    "answer label",
                    format!(
                        "{label:?} after {:?} must be one token, but it is {}: train with data.scoring = \"cloze\", which scores whole texts, or take another template or model",
                        end(prompt),
                        match grown {
                            Some(tokens) => format!("{}", tokens.len()),
                            None => "joined with what stands before it".into(),
                        },
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

    /// Token ids of the whole text that the model reads, without labels.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode_prompt_text(&self, prompt: &Prompt) -> Result<Vec<u32>, DataError> {
        let question = prompt.question_with(&prompt.shortenable);
        self.encode_framed(prompt, &question, "")
    }

    /// A short stand-in for the prompt with the same end, and a label after it. It is never the
    /// label alone: some tokenizers treat what begins a text differently.
    fn stand_in(&self, prompt: &Prompt, label: &str) -> Result<Vec<u32>, DataError> {
        let alone = prompt.alone();
        let kept = match alone.end() {
            "" => end(&alone),
            _ => "",
        };
        self.encode_framed(&alone, &alone.question_with(kept), label)
    }

    /// A question inside the prompt's frame, and a label after it.
    fn encode_framed(
        &self,
        prompt: &Prompt,
        question: &str,
        label: &str,
    ) -> Result<Vec<u32>, DataError> {
        match &prompt.frame {
            None => self.encode(&[&*prompt.examples, question, label].concat()),
            Some(frame) => {
                let mut parts = vec![ChatPart::Template(&frame.before)];
                for turn in &frame.turns {
                    parts.push(ChatPart::Text(&turn.text));
                    parts.push(ChatPart::Template(&turn.behind));
                }
                parts.extend([
                    ChatPart::Text(question),
                    ChatPart::Template(&frame.after),
                    ChatPart::Text(label),
                ]);
                self.encode_chat(&parts)
            }
        }
    }
}

/// The last characters of a prompt: as many as can matter to the tokens of what follows it.
fn end(prompt: &Prompt) -> &str {
    let text = match prompt.end() {
        "" => &prompt.shortenable,
        text => text,
    };
    let mut places = text.char_indices().rev().map(|(place, _)| place);
    &text[places.nth(11).unwrap_or(0)..]
}

/// Characters of the longest part of a text that is cut as a whole.
const LONGEST_WORD: usize = 24;

/// A text in the parts at whose ends it may be cut: words with the white space behind them, and the
/// single characters of what is longer than any word, such as Chinese text or a URL.
fn parts(text: &str) -> Vec<&str> {
    text.split_inclusive(char::is_whitespace)
        .flat_map(|word| match word.chars().count() > LONGEST_WORD {
            true => word.split_inclusive(|_| true).collect(),
            false => vec![word],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    const LETTERS: Rendering = Rendering {
        template: Template::MoePeft,
        labels: LabelStyle::Choice,
        scoring: Scoring::Letters,
        normalization: Normalization::Token,
        answer_tokens: 16,
        whole_choices: false,
        chat: None,
        shots: None,
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
    fn a_question_whose_choices_do_not_fit_costs_the_others_nothing() {
        let tokenizer = Tokenizer::tiny();
        let cloze = Rendering {
            labels: LabelStyle::Letter,
            scoring: Scoring::Cloze,
            ..LETTERS
        };
        let mut long = question("Which?");
        long.choices = vec!["so ".repeat(40), "no".into()];
        let rows = [question("one"), long, question("three")];
        let (kept, out) = tokenizer.encode_askable(&rows, &cloze, 80).unwrap();
        assert_eq!((kept.len(), out.len()), (2, 1));
        assert!(out[0].reason.contains("the limit is"), "{out:?}");
        // A label that no question could be asked with is the settings' fault.
        let mut labels = question("x");
        labels.choices = vec!["maybe".into(), "perhaps".into()];
        assert!(tokenizer.encode_askable(&[labels], &LETTERS, 200).is_err());
    }

    /// The answer is read behind the prompt's last token.
    #[test]
    fn a_prompt_of_no_token_is_refused() {
        let tokenizer = Tokenizer::tiny();
        let cloze = Rendering {
            template: Template::Plain,
            labels: LabelStyle::Letter,
            scoring: Scoring::Cloze,
            ..LETTERS
        };
        let mut rows = [question("Which?"), question("Which?")];
        rows[1].choices = vec!["so ".repeat(40), "no".into()];
        for limit in [30, 60, 90, 118, 119, 120, 121, 122, 123, 124, 125, 126] {
            let found = tokenizer.encode_askable(&rows, &cloze, limit);
            let (kept, out) = found.unwrap();
            assert!(kept.iter().all(|row| !row.prompt.is_empty()), "{limit}");
            assert_eq!(kept.len() + out.len(), 2, "{limit}");
        }
    }

    #[test]
    fn what_no_space_divides_is_cut_inside() {
        let tokenizer = Tokenizer::tiny();
        let list: String = (0..60).map(|i| format!("item {i}\n")).collect();
        for text in [
            "水は何度で沸騰しますか".repeat(10),
            format!("https://{}", "x/".repeat(90)),
            list,
        ] {
            let encoded = tokenizer
                .encode_questions(&[question(&text)], &LETTERS, 150)
                .unwrap();
            let ids = &encoded[0].prompt;
            // A character of Japanese is three tokens of the tiny model.
            assert!(
                encoded[0].shortened && ids.len() <= 150 && ids.len() > 140,
                "{text}: {}",
                ids.len()
            );
            let prompt = tokenizer.decode(ids).unwrap();
            let kept = prompt
                .strip_prefix(
                    Template::MoePeft
                        .render(&question(""), LabelStyle::Choice)
                        .head
                        .as_str(),
                )
                .and_then(|rest| rest.strip_suffix("?\nAnswer:"))
                .unwrap();
            assert!(kept.len() > 60 && text.starts_with(kept), "{prompt}");
        }
    }

    /// SentencePiece models of older families mark the beginning of a text like a space.
    fn marks_beginnings() -> Tokenizer {
        let characters = "▁abcdnopqrstuwy?\n".chars().map(String::from);
        let merged = ["▁▁", "▁p", "▁q", "▁pa"].map(String::from);
        let merges = [["▁", "▁"], ["▁", "p"], ["▁", "q"], ["▁p", "a"]];
        let vocabulary: serde_json::Map<String, serde_json::Value> = characters
            .chain(merged)
            .enumerate()
            .map(|(id, token)| (token, id.into()))
            .collect();
        let text = serde_json::json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": null,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        });
        Tokenizer::new(text.to_string().parse().unwrap())
    }

    /// The prompt's tokens with a choice's are those of the whole text, wherever its lines end.
    #[test]
    fn what_follows_a_prompt_of_one_line_has_the_tokens_that_it_has_there() {
        let tokenizer = marks_beginnings();
        for text in ["a question", "two lines\na question", "is\n", "q"] {
            for scoring in [Scoring::Letters, Scoring::Cloze] {
                let plain = Rendering {
                    template: Template::Plain,
                    scoring,
                    ..LETTERS
                };
                let mut asked = question(text);
                asked.choices = match scoring {
                    Scoring::Letters => vec!["p".into(), "q".into()],
                    Scoring::Cloze => vec!["paris".into(), "a town".into()],
                };
                let found = tokenizer.encode_questions(&[asked.clone()], &plain, 200);
                let [found] = &found.unwrap()[..] else {
                    panic!("one question");
                };
                for (choice, answer) in found.choices.iter().zip(&asked.choices) {
                    let whole = tokenizer.encode(&format!("{text} {answer}")).unwrap();
                    let parts = [&*found.prompt, &choice.tokens].concat();
                    assert_eq!(parts, whole, "{text:?} {answer} {scoring:?}");
                }
            }
        }
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

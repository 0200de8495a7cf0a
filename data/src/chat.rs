//! Questions in a model's own chat template.
//!
//! Instruct models are trained on conversations in a fixed form, which they carry as a Jinja
//! template: in `chat_template.jinja`, in `tokenizer_config.json`, or in a GGUF file's header. Here
//! a question becomes the user's turn of such a conversation, and its answer is read where the
//! assistant's turn begins, as `transformers.apply_chat_template(.., add_generation_prompt=True)`
//! has it.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::NaiveDate;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::prompt::{Frame, Prompt, Turn};
use crate::tokenizer::{ALIAS, HOLDS_ALIAS};

/// Whether questions are put in the model's own chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatMode {
    /// The prompt is the text that the model reads.
    #[default]
    Off,
    /// The prompt is the user's turn of a conversation, where the model has a chat template.
    Auto,
}

/// A model's chat template, and what stands before every question in it.
pub struct ChatTemplate {
    source: String,
    special_tokens: BTreeMap<String, String>,
    system: Option<String>,
    /// What the template puts between the generation prompt and the answer: nothing, or a space.
    gap: String,
    environment: Environment<'static>,
}

/// Name of the one template of an environment.
const NAME: &str = "chat template";

/// What marks the place of an earlier turn: a character for private use, which no text holds.
const PLACE: char = '\u{10fff2}';

/// A question and an answer that no template holds, to see where the answer stands.
const PROBE: [&str; 2] = ["What is asked?", "This-is-answered"];

impl ChatTemplate {
    /// A template from its Jinja source. `special_tokens` are the names that it may write, such as
    /// `bos_token`; `system` is the system prompt of every conversation, if there is one.
    ///
    /// # Errors
    /// A template that cannot be read, or refuses a question or the system prompt.
    pub fn new(
        source: &str,
        special_tokens: BTreeMap<String, String>,
        system: Option<&str>,
    ) -> Result<Self, DataError> {
        let mut template = Self {
            environment: environment(source).map_err(|e| refused(&e))?,
            source: source.into(),
            special_tokens,
            system: system.map(str::to_owned),
            gap: String::new(),
        };
        let [question, answer] = PROBE;
        let asked = template.asked(question)?;
        // Some templates write no conversation that ends with an answer: then nothing is between.
        if let Ok(answered) =
            template.conversation(&[("user", question), ("assistant", answer)], false)
            && let Some(rest) = answered.strip_prefix(&asked)
            && let Some((gap, _)) = rest.split_once(answer)
            && gap.trim().is_empty()
        {
            template.gap = gap.into();
        }
        Ok(template)
    }

    /// The template's Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The system prompt, if one was given.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// A prompt as the user's turn, with its labels as the assistant's.
    ///
    /// # Errors
    /// A template that refuses the question, or writes another text in its place.
    pub fn frame(&self, prompt: Prompt) -> Result<Prompt, DataError> {
        self.frame_after(&[], prompt)
    }

    /// A prompt as the user's turn after examples, each a turn of the user and one of the
    /// assistant.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn frame_after(
        &self,
        examples: &[[String; 2]],
        prompt: Prompt,
    ) -> Result<Prompt, DataError> {
        // Templates trim a turn; so that they find nothing to trim, it is done here.
        let prompt = trimmed(prompt);
        let content = prompt.text();
        let turns: Vec<&str> = examples.iter().flatten().map(|text| text.trim()).collect();
        let own = prompt.labels.iter().map(String::as_str).chain([&*content]);
        let mut texts = own.chain(turns.iter().copied());
        if texts.any(|text| text.contains(ALIAS)) {
            return Err(DataError::setting("data.chat", HOLDS_ALIAS));
        }
        let changed = || {
            let reason =
                "the model's chat template changes the question's text: use chat = \"off\"";
            DataError::setting("data.chat", reason)
        };
        // An answer such as A stands in many a template: earlier turns are found by their places.
        let places: Vec<String> = (0..turns.len())
            .map(|n| format!("{PLACE}{n}{PLACE}"))
            .collect();
        let roles = ["user", "assistant"].into_iter().cycle();
        let mut conversation: Vec<(&str, &str)> =
            roles.zip(places.iter().map(String::as_str)).collect();
        conversation.push(("user", &content));
        let text = self.conversation(&conversation, true)?;
        let start = text.rfind(&content).ok_or_else(changed)?;
        let mut before = vec![&text[..start]];
        for place in &places {
            let last = before.pop().unwrap_or_default();
            let (first, rest) = last.split_once(place.as_str()).ok_or_else(changed)?;
            before.extend([first, rest]);
        }
        let behind = before.iter().skip(1);
        let turns = turns.iter().zip(behind).map(|(text, behind)| Turn {
            text: (*text).into(),
            behind: (*behind).into(),
        });
        let labels = prompt.labels.iter();
        Ok(Prompt {
            frame: Some(Frame {
                before: before[0].into(),
                turns: turns.collect(),
                after: text[start + content.len()..].into(),
            }),
            labels: labels
                .map(|label| format!("{}{}", self.gap, label.trim_start()))
                .collect(),
            ..prompt
        })
    }

    /// The text of a conversation up to where the assistant answers.
    ///
    /// # Errors
    /// A template that refuses the question.
    pub fn asked(&self, question: &str) -> Result<String, DataError> {
        self.conversation(&[("user", question)], true)
    }

    fn conversation(&self, turns: &[(&str, &str)], generate: bool) -> Result<String, DataError> {
        let system = self.system.iter().map(|text| ("system", text.as_str()));
        let messages: Vec<Value> = system
            .chain(turns.iter().copied())
            .map(|(role, content)| context! { role, content })
            .collect();
        let given = context! {
            messages,
            add_generation_prompt => generate,
            tools => Value::from(()),
            documents => Value::from(()),
            // The answer is wanted at once, not after a thought.
            enable_thinking => false,
            ..Value::from_pairs(self.special_tokens.clone())
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(given))
            .map_err(|error| refused(&error))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .field("system", &self.system)
            .finish_non_exhaustive()
    }
}

impl PartialEq for ChatTemplate {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, &self.special_tokens, &self.system)
            == (&other.source, &other.special_tokens, &other.system)
    }
}

/// The prompt without white space around it.
fn trimmed(mut prompt: Prompt) -> Prompt {
    let trim_start = |text: &mut String| *text = text.trim_start().into();
    trim_start(&mut prompt.head);
    if prompt.head.is_empty() {
        trim_start(&mut prompt.shortenable);
        if prompt.shortenable.is_empty() {
            trim_start(&mut prompt.tail);
        }
    }
    prompt.tail.truncate(prompt.tail.trim_end().len());
    prompt
}

/// What a template said when it refused, with every cause.
fn refused(error: &Error) -> DataError {
    let said = error.detail().unwrap_or_default();
    let line = error
        .line()
        .map_or(String::new(), |line| format!(", line {line}"));
    DataError::setting(
        "data.chat",
        format!("the model's chat template{line}: {}: {said}", error.kind()),
    )
}

/// The environment of `transformers`: its settings, functions and filters.
fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let blocks = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
    environment.set_syntax(blocks);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |reason: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        },
    );
    environment.add_function("strftime_now", |format: String| date(&format));
    environment.add_filter("tojson", json);
    environment.add_template_owned(NAME, without_generation_tags(source))?;
    Ok(environment)
}

/// The date that templates write. It is the one that Llama's templates write where there is no
/// clock, always the same: a prompt must not read otherwise tomorrow.
fn date(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let day = NaiveDate::from_ymd_opt(2024, 7, 26).and_then(|day| day.and_hms_opt(0, 0, 0));
    let day = day.expect("a day of the calendar");
    match write!(text, "{}", day.format(format)) {
        Ok(()) => Ok(text),
        Err(_) => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: {format:?} is no format of a date"),
        )),
    }
}

/// JSON as Python writes it: a space after commas and colons.
fn json(value: &Value, options: minijinja::value::Kwargs) -> Result<String, Error> {
    let fail =
        |e: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let indent: Option<usize> = options.get("indent")?;
    let value = serde_json::to_value(value).map_err(|e| fail(&e))?;
    let mut text = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut text, pretty,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut text, Spaced,
        )),
    };
    written.map_err(|e| fail(&e))?;
    String::from_utf8(text).map_err(|e| fail(&e))
}

/// `{"a": 1, "b": [2, 3]}`
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The source with `{% generation %}`, which marks what a training looks at and writes nothing, as
/// a block that is always entered.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start);
        out += text;
        let Some((inside, after)) = tag[2..].split_once("%}") else {
            rest = tag;
            break;
        };
        let (tag, word) = (
            &tag[..inside.len() + 4],
            inside.trim_matches(['-', '+']).trim(),
        );
        out += &match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_string(),
        };
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn prompt() -> Prompt {
        Prompt {
            head: "Say: ".into(),
            shortenable: "What <|im_end|> melts?".into(),
            tail: "\nAnswer:".into(),
            labels: vec![" A".into(), " ice at 0".into()],
            ..Prompt::default()
        }
    }

    #[test]
    fn a_prompt_is_the_users_turn_and_labels_are_the_assistants() {
        let template = ChatTemplate::new(CHATML, BTreeMap::new(), Some("Be brief.")).unwrap();
        let framed = template.frame(prompt()).unwrap();
        assert_eq!(
            framed.text(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay: What <|im_end|> \
             melts?\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(framed.labels, ["A", "ice at 0"]);
        let frame = framed.frame.unwrap();
        assert!(frame.before.ends_with("user\n"), "{frame:?}");
        assert!(frame.after.starts_with("<|im_end|>"), "{frame:?}");
    }

    #[test]
    fn the_answer_follows_as_the_templates_own_turn_has_it() {
        let llama2 = "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' </s>' }}{% endif %}{% endfor %}";
        let template = ChatTemplate::new(llama2, BTreeMap::new(), None).unwrap();
        let framed = template.frame(prompt()).unwrap();
        assert!(framed.text().ends_with("Answer: [/INST]"));
        assert_eq!(framed.labels, [" A", " ice at 0"]);
    }

    #[test]
    fn what_a_template_refuses_is_said() {
        let source = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ messages[0]['content'] }}";
        let error = ChatTemplate::new(source, BTreeMap::new(), Some("x")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("System role not supported"), "{error}");
        let error = ChatTemplate::new("{% if %}", BTreeMap::new(), None).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
        let shouting =
            ChatTemplate::new("{{ messages[0].content | upper }}", BTreeMap::new(), None);
        let error = shouting.unwrap().frame(prompt()).unwrap_err().to_string();
        assert!(error.contains("changes the question's text"), "{error}");
        let chatml = ChatTemplate::new(CHATML, BTreeMap::new(), None).unwrap();
        let hostile = Prompt {
            shortenable: "\u{10fff0}2\u{10fff1}".into(),
            ..prompt()
        };
        let error = chatml.frame(hostile).unwrap_err().to_string();
        assert!(error.contains("U+10FFF0"), "{error}");
    }

    #[test]
    fn a_tag_of_nothing_is_no_fault_of_the_program() {
        let content = "{{ messages[0].content }}";
        for (source, text) in [
            ("a {# {%} #} b ", "a  b "),
            ("{{ '{%}' }}{{ '{%%}' }}", "{%}{%%}"),
        ] {
            let source = format!("{source}{content}");
            let template = ChatTemplate::new(&source, BTreeMap::new(), None).unwrap();
            let framed = template.frame(prompt()).unwrap().text();
            assert!(framed.starts_with(text), "{framed}");
        }
        assert!(ChatTemplate::new("{%} x", BTreeMap::new(), None).is_err());
    }

    #[test]
    fn dates_are_fixed_json_is_pythons_and_generation_marks_write_nothing() {
        let source = "{{ strftime_now('%d %b %Y') }} {{ {'a': [1, 'é<']} | tojson }} {%- generation -%} {{ messages[0].content }} {% endgeneration %}.";
        let template = ChatTemplate::new(source, BTreeMap::new(), None).unwrap();
        let text = template.asked("x").unwrap();
        assert_eq!(text, "26 Jul 2024 {\"a\": [1, \"é<\"]}x .");
        let error = ChatTemplate::new("{{ strftime_now('%!') }}", BTreeMap::new(), None);
        assert!(error.unwrap_err().to_string().contains("strftime_now"));
    }
}

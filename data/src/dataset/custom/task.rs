//! A task file: where the rows are, and what is made of a row's fields, as templates of evaluation
//! harnesses say it.

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::DataError;

/// A task file, `task.toml`. Files in it are relative to its own folder.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskFile {
    /// A dataset of the Hub, `owner/name` or `owner/name:configuration`.
    pub dataset: Option<String>,
    /// Training questions.
    pub train: Option<PathBuf>,
    /// Held-out questions.
    pub held_out: Option<PathBuf>,
    /// Test questions.
    pub test: Option<PathBuf>,
    /// Template of the question, which the wording of `data.template` goes around.
    pub question: Option<String>,
    /// Template of the whole prompt, in place of `question`: nothing goes around it.
    pub prompt: Option<String>,
    /// A template for each choice, or one expression that is a list of them.
    pub choices: Option<Choices>,
    /// Template of the right answer: an index from 0, a letter, or the choice's text.
    pub answer: Option<String>,
    /// Template of a text that answers the question.
    pub context: Option<String>,
    /// Template of what a row shares with others.
    pub group: Option<String>,
    /// Template of the row's name.
    pub id: Option<String>,
    /// The choices themselves are the answer's words; otherwise letters are.
    pub answer_by_choice: bool,
    /// Questions without choices: the model writes the answer itself.
    pub written: bool,
}

/// How the choices of a row come about.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Choices {
    /// A template for each.
    Each(Vec<String>),
    /// An expression that is a list, such as `options`.
    Listed(String),
}

impl TaskFile {
    /// Reads a task file.
    ///
    /// # Errors
    /// A file that cannot be read, a key that is not one of a task's, or one that is missing.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let fail = |reason: String| DataError::File {
            path: path.into(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                fail("no such task file; a run needs its own where it was".into())
            }
            _ => DataError::io(path, e),
        })?;
        let mut task: Self = toml::from_str(&text).map_err(|e| {
            let line = e
                .span()
                .map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            fail(format!("{line}{}", e.message()))
        })?;
        if task.question.is_some() == task.prompt.is_some() {
            return Err(fail(
                "expected either question or prompt, a template".into(),
            ));
        }
        if task.choices.is_some() == task.written {
            return Err(fail("expected choices, or written = true".into()));
        }
        if task.dataset.is_none() && task.train.is_none() && task.test.is_none() {
            return Err(fail(
                "expected the questions: dataset = \"owner/name\", train = FILE or test = FILE"
                    .into(),
            ));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [&mut task.train, &mut task.held_out, &mut task.test] {
            *file = file.as_ref().map(|file| folder.join(file));
        }
        // A template that cannot be read is no row's fault.
        task.row(&Value::Object(Map::new()), true).map_err(fail)?;
        Ok(task)
    }

    /// A row in the fields of the uniform format, from the row's own.
    pub(super) fn mapped(&self, row: &Value) -> Result<Value, String> {
        self.row(row, false)
    }

    /// `only_parse` looks at the templates alone.
    fn row(&self, row: &Value, only_parse: bool) -> Result<Value, String> {
        let mut environment = Environment::new();
        // A row may lack a field that `if` asks for, but not one that is written.
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.add_test("none", |value: minijinja::Value| {
            value.is_none() || value.is_undefined()
        });
        environment.set_formatter(|out, state, value| match value.is_none() {
            true => Err(minijinja::Error::new(
                ErrorKind::UndefinedError,
                "it is null",
            )),
            false => minijinja::escape_formatter(out, state, value),
        });
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // What is null is absent, as in other files: a filter would make "none" or 0 of it.
        let given = row.as_object().into_iter().flatten();
        let given = given.filter(|(_, value)| !value.is_null());
        let row: Map<String, Value> = given.map(|(name, v)| (name.clone(), v.clone())).collect();
        let fields = minijinja::Value::from(Serde(&row));
        let fail = |error: &minijinja::Error| {
            let names: Vec<&str> = row.keys().map(String::as_str).collect();
            let mut names = names.join(", ");
            if !only_parse {
                names.insert_str(0, "; the row has ");
            }
            let said = error.detail().map(|said| format!(": {said}"));
            format!("{}{}{names}", error.kind(), said.unwrap_or_default())
        };
        // minijinja does not name what is undefined: the template shows it.
        let fail = |key: &str, template: &str, error: &minijinja::Error| {
            let shown: String = template.chars().take(SHOWN).collect();
            let more = if shown.len() < template.len() {
                ".."
            } else {
                ""
            };
            format!("{key} = {:?}: {}", shown + more, fail(error))
        };
        let mut found = Map::new();
        for (key, template) in [
            ("question", self.question.as_ref().or(self.prompt.as_ref())),
            ("answer", self.answer.as_ref()),
            ("context", self.context.as_ref()),
            ("group", self.group.as_ref()),
            ("id", self.id.as_ref()),
        ] {
            if let Some(template) = template {
                let text = render(&environment, template, &fields, only_parse);
                let named = match key {
                    "question" if self.question.is_none() => "prompt",
                    key => key,
                };
                // A row that lacks what its answer reads is a new question.
                let lacks = || {
                    let read = environment.template_from_str(template);
                    let names = read.map(|read| read.undeclared_variables(false));
                    names.is_ok_and(|names| names.iter().any(|name| !row.contains_key(name)))
                };
                let text = match text {
                    Err(error)
                        if key == "answer"
                            && error.kind() == ErrorKind::UndefinedError
                            && lacks() =>
                    {
                        Value::Null
                    }
                    text => text.map_err(|error| fail(named, template, &error))?,
                };
                found.insert(key.into(), text);
            }
        }
        match &self.choices {
            None => {}
            Some(Choices::Each(templates)) => {
                let choices = templates.iter().map(|template| {
                    let text = render(&environment, template, &fields, only_parse);
                    text.map_err(|error| fail("choices", template, &error))
                });
                let choices: Vec<Value> = choices.collect::<Result<_, _>>()?;
                found.insert("choices".into(), choices.into());
            }
            Some(Choices::Listed(expression)) => {
                let bare = expression.trim();
                let bare = bare
                    .strip_prefix("{{")
                    .and_then(|bare| bare.strip_suffix("}}"));
                // A part of a list that is not there would be an empty one.
                environment.set_undefined_behavior(UndefinedBehavior::Strict);
                let compiled = environment
                    .compile_expression(bare.unwrap_or(expression))
                    .map_err(|error| fail("choices", expression, &error))?;
                if !only_parse {
                    let list = compiled
                        .eval(fields.clone())
                        .map_err(|error| fail("choices", expression, &error))?;
                    let list = serde_json::to_value(&list).map_err(|e| format!("choices: {e}"))?;
                    found.insert("choices".into(), list);
                }
            }
        }
        Ok(Value::Object(found))
    }
}

/// Characters of a template that an error shows.
const SHOWN: usize = 80;

/// The text of a template for a row; `only_parse` looks at the template alone.
fn render<'a>(
    environment: &Environment<'a>,
    template: &'a str,
    fields: &minijinja::Value,
    only_parse: bool,
) -> Result<Value, minijinja::Error> {
    let template = environment.template_from_str(template)?;
    match only_parse {
        true => Ok(Value::Null),
        false => Ok(Value::from(template.render(fields.clone())?.trim())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<TaskFile, String> {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        TaskFile::read(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn templates_read_a_rows_fields() {
        let task = read(
            "dataset = \"a/b\"\nquestion = \"{{ context | trim }} {{ question }}\"\nchoices = [\"{{ answerA }}\", \"{{ answerB }}\"]\nanswer = \"{{ label | int - 1 }}\"\n",
        )
        .unwrap();
        let row = json!({"context": "Kai fell. ", "question": "And now?", "answerA": "x", "answerB": "y", "label": "2"});
        assert_eq!(
            task.mapped(&row).unwrap(),
            json!({"question": "Kai fell. And now?", "choices": ["x", "y"], "answer": "1"})
        );
        let listed = read("train = \"x.csv\"\nprompt = \"{{ q }}\\nAnswer:\"\nchoices = \"{{ options[:2] }}\"\nanswer = \"{{ gold.upper() }}\"\n").unwrap();
        let row = json!({"q": "Which?", "options": ["x", "y", "z"], "gold": "b"});
        let found = listed.mapped(&row).unwrap();
        assert_eq!(found["choices"], json!(["x", "y"]));
        assert_eq!(
            (&found["question"], &found["answer"]),
            (&json!("Which?\nAnswer:"), &json!("B"))
        );
        let error = listed.mapped(&json!({"q": "x", "gold": "b"})).unwrap_err();
        assert!(
            error.starts_with("choices = \"{{ options[:2] }}\": undefined value")
                && error.contains("the row has q, gold"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_task_is_named() {
        for (text, expected) in [
            (
                "dataset = \"a/b\"\nquestoin = \"x\"\n",
                "line 2: unknown field `questoin`",
            ),
            (
                "dataset = \"a/b\"\nchoices = [\"x\"]\n",
                "either question or prompt",
            ),
            ("dataset = \"a/b\"\nquestion = \"x\"\n", "expected choices"),
            (
                "question = \"x\"\nchoices = [\"x\"]\n",
                "expected the questions",
            ),
            (
                "dataset = \"a/b\"\nquestion = \"{{ x\"\nchoices = [\"x\"]\n",
                "question = \"{{ x\": syntax error",
            ),
            (
                "dataset = \"a/b\"\nquestion = \"x\"\nchoices = \"{{ a b }}\"\n",
                "choices = \"{{ a b }}\": syntax error",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}

//! The same answers in the form of OpenAI's chat completions, for clients that speak it.
//!
//! One user message is one question. Its choices come as `uq4ct.choices`, or as lettered lines at
//! the message's end. The answer's letter is the message, its probabilities among the choices are
//! the log probabilities, and everything else that is known of it stands in `uq4ct`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, State};
use axum::http::{Request, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use train::answering::{Answer, Decision};

use super::client::Client;
use super::failure::{Failure, Said};
use super::messages::{Question, Takes};
use super::outcome::{Reply, Unanswered};
use super::{Shared, attended};

/// The routes whose errors have OpenAI's form.
pub(super) const CHAT: &str = "/v1/chat/completions";
/// The list of what can be asked: one run.
pub(super) const MODELS: &str = "/v1/models";

/// Settings of how a model writes, which change nothing of how this one chooses.
const WITHOUT_EFFECT: [&str; 15] = [
    "temperature",
    "top_p",
    "seed",
    "user",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "reasoning_effort",
    "verbosity",
];

/// A question as a conversation of one message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct ChatRequest {
    /// The name that `/v1/models` gives.
    pub(super) model: String,
    /// One user message: the question, its choices as lettered lines at the end unless
    /// `uq4ct.choices` holds them.
    pub(super) messages: Vec<Message>,
    /// Whether to tell the log probabilities of the choices.
    #[serde(default)]
    logprobs: Option<bool>,
    /// As many choices at most, 0 to 20, with `logprobs`.
    #[serde(default)]
    top_logprobs: Option<u8>,
    /// What chat completions have no place for.
    #[serde(default)]
    uq4ct: Option<Extra>,
    /// Not given: answers are not streamed.
    #[serde(default)]
    stream: Option<bool>,
    /// One answer.
    #[serde(default)]
    n: Option<u64>,
    /// Any other field: settings of sampling have no effect, all else is refused.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// A turn of the conversation.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Message {
    /// `user`.
    role: String,
    /// The text, or parts of type `text`.
    content: Content,
}

/// A message's text.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Content {
    /// The text itself.
    Text(String),
    /// Parts of it.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Part {
    /// `text`.
    r#type: String,
    /// The text.
    #[serde(default)]
    text: Option<String>,
}

/// What a question has besides its text.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Extra {
    /// The choices, without letters.
    #[serde(default)]
    choices: Vec<String>,
    /// A text that answers it, where the run's prompt reads one.
    #[serde(default)]
    context: Option<String>,
    /// Name of the question.
    #[serde(default)]
    id: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: [Choice; 1],
    /// Everything that is known of the answer: confidence, FLU, set, decision.
    uq4ct: Answer,
}

/// The one answer that there is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Choice {
    index: u8,
    message: Spoken,
    logprobs: Option<LogProbs>,
    finish_reason: &'static str,
}

/// What is said.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Spoken {
    role: &'static str,
    /// The chosen letter, or the text that the model wrote; absent where it abstains.
    content: Option<String>,
    /// Why there is no answer, where it abstains.
    refusal: Option<String>,
}

/// Log probabilities of the answer's one token, the letter.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct LogProbs {
    content: [TokenLogProb; 1],
    refusal: Option<String>,
}

/// The chosen letter, with the others.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct TokenLogProb {
    #[serde(flatten)]
    chosen: LogProb,
    /// The most probable letters, the first being the chosen one.
    top_logprobs: Vec<LogProb>,
}

/// A letter and its log probability among the choices.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct LogProb {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// A request that cannot be served, with the field and a code of OpenAI's.
fn refused(param: &'static str, code: &'static str, reason: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, reason).about(param, code)
}

impl ChatRequest {
    /// The question, as [`Question`] has it.
    fn question(&self, takes: Takes) -> Result<Question, Failure> {
        self.check()?;
        let text = self.text()?;
        let extra = self.uq4ct.clone().unwrap_or_default();
        let (question, choices) = match (takes.writes, extra.choices.is_empty()) {
            (false, true) => lettered(&text).ok_or_else(|| {
                refused(
                    "messages",
                    "invalid_value",
                    "this run chooses among answers: give them as uq4ct.choices, or as lines at \
                     the message's end, \"A) ..\", \"B) ..\"",
                )
            })?,
            _ => (text, extra.choices),
        };
        Ok(Question {
            question,
            choices,
            context: extra.context,
            id: extra.id,
            routing: false,
        })
    }

    /// Refuses what would otherwise be passed over.
    fn check(&self) -> Result<(), Failure> {
        if self.stream == Some(true) {
            let reason = "stream: an answer comes at once, as a whole: leave it out";
            return Err(refused("stream", "unsupported_value", reason));
        }
        if self.n.is_some_and(|n| n != 1) {
            let reason = "n: the same question has the same answer: leave it out";
            return Err(refused("n", "unsupported_value", reason));
        }
        if self.top_logprobs.is_some_and(|n| n > 20) {
            let reason = "top_logprobs: expected 0 to 20";
            return Err(refused("top_logprobs", "invalid_value", reason));
        }
        if self.top_logprobs.is_some() && self.logprobs != Some(true) {
            let reason = "top_logprobs: is read with logprobs = true alone";
            return Err(refused("top_logprobs", "invalid_value", reason));
        }
        let mut others = self.others.iter().filter(|(_, value)| !value.is_null());
        let unread = others.find(|(name, _)| !WITHOUT_EFFECT.contains(&name.as_str()));
        unread.map_or(Ok(()), |(name, _)| {
            let reason = format!("{name}: this server does not read it: leave it out");
            Err(refused("", "unknown_parameter", reason))
        })
    }

    /// The text of the one message.
    fn text(&self) -> Result<String, Failure> {
        let [message] = &self.messages[..] else {
            let reason = format!(
                "messages: expected one user message, got {}: every question stands for itself, \
                 and its prompt is the training's",
                self.messages.len()
            );
            return Err(refused("messages", "invalid_value", reason));
        };
        if message.role != "user" {
            let reason = "messages[0].role: expected user";
            return Err(refused("messages", "invalid_value", reason));
        }
        match &message.content {
            Content::Text(text) => Ok(text.clone()),
            // A line ends where a part does.
            Content::Parts(parts) => parts
                .iter()
                .map(|part| match (part.r#type.as_str(), &part.text) {
                    ("text", Some(text)) => Ok(text.as_str()),
                    _ => Err(refused(
                        "messages",
                        "invalid_value",
                        "messages[0].content: expected parts of type text alone",
                    )),
                })
                .collect::<Result<Vec<&str>, _>>()
                .map(|parts| parts.join("\n")),
        }
    }
}

/// A question and the choices in lettered lines at its end: `A) ..`, `(A) ..`, `A. ..` or `A: ..`,
/// from A on, two or more.
fn lettered(text: &str) -> Option<(String, Vec<String>)> {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let choice = |line: &str| -> Option<(char, String)> {
        let line = line.trim();
        let (inner, ends): (&str, &[char]) = match line.strip_prefix('(') {
            Some(rest) => (rest, &[')']),
            None => (line, &[')', '.', ':']),
        };
        let mut characters = inner.chars();
        let letter = characters.next().filter(char::is_ascii_uppercase)?;
        let rest = characters.as_str().strip_prefix(ends)?;
        Some((letter, rest.trim().to_owned()))
    };
    // The last line that begins a list: an answer may itself be lettered `A`.
    let begin = lines
        .iter()
        .rposition(|line| choice(line).is_some_and(|(letter, _)| letter == 'A'))?;
    let found: Vec<(char, String)> = lines[begin..]
        .iter()
        .filter(|line| !line.trim().is_empty())
        .map(|line| choice(line))
        .collect::<Option<_>>()?;
    let in_order = found
        .iter()
        .zip('A'..='Z')
        .all(|((letter, _), expected)| *letter == expected);
    (in_order && (2..=26).contains(&found.len())).then(|| {
        let question = lines[..begin].join("\n").trim().to_owned();
        (question, found.into_iter().map(|(_, text)| text).collect())
    })
}

/// The letter of a choice.
fn letter(choice: usize) -> String {
    char::from(b'A'.saturating_add(u8::try_from(choice).unwrap_or(u8::MAX))).to_string()
}

/// The log probabilities of the choices, the most probable first.
fn log_probabilities(answer: &Answer) -> Vec<LogProb> {
    let mut all: Vec<(usize, f64)> = answer.probabilities.iter().copied().enumerate().collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let logs = all.into_iter().map(|(choice, probability)| LogProb {
        token: letter(choice),
        // A probability of 0 has no logarithm that JSON could hold; OpenAI's is as low.
        logprob: probability.ln().max(-9999.0),
        bytes: letter(choice).into_bytes(),
    });
    logs.collect()
}

/// The answer in its form.
fn completion(request: &ChatRequest, answer: Answer) -> Completion {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let abstains = answer.decision == Some(Decision::Abstain);
    let says = answer.answer.map_or_else(|| answer.text.clone(), letter);
    let refusal = abstains.then(|| {
        format!(
            "The model abstains: it would say {says}, with a probability of {:.2}.",
            // The rule looks at what the model states.
            answer.probability
        )
    });
    let logs = (request.logprobs == Some(true)).then(|| log_probabilities(&answer));
    let logprobs = logs.filter(|_| !abstains).and_then(|logs| {
        let chosen = logs.first()?.clone();
        let shown = usize::from(request.top_logprobs.unwrap_or(0));
        Some(LogProbs {
            content: [TokenLogProb {
                chosen,
                top_logprobs: logs.into_iter().take(shown).collect(),
            }],
            refusal: None,
        })
    });
    Completion {
        id: format!(
            "chatcmpl-{:x}-{:x}",
            now.as_nanos(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ),
        object: "chat.completion",
        created: now.as_secs(),
        model: request.model.clone(),
        choices: [Choice {
            index: 0,
            message: Spoken {
                role: "assistant",
                content: (!abstains).then_some(says),
                refusal,
            },
            logprobs,
            finish_reason: "stop",
        }],
        uq4ct: answer,
    }
}

/// `POST /v1/chat/completions`
pub(super) async fn chat(
    State(shared): State<Shared>,
    Extension(client): Extension<Arc<Client>>,
    version: Version,
    body: Result<Json<ChatRequest>, JsonRejection>,
) -> Result<Json<Completion>, Failure> {
    let Json(request) = body?;
    let own = model(&shared);
    if request.model != own {
        let reason = format!("model: there is {own} alone, see {MODELS}");
        return Err(Failure::new(StatusCode::NOT_FOUND, reason).about("model", "model_not_found"));
    }
    let question = request.question(shared.takes)?;
    if shared.takes.writes && request.logprobs == Some(true) {
        let reason = "logprobs: this run writes its answers: its confidence is in uq4ct";
        return Err(refused("logprobs", "unsupported_value", reason));
    }
    let asked = question.asked(shared.takes).map_err(|reason| {
        let of = |field: &str| reason.starts_with(&format!("{field}:"));
        let given = request.uq4ct.as_ref();
        let extra = of("context")
            || (of("choices") && given.is_some_and(|extra| !extra.choices.is_empty()));
        match extra {
            true => refused("uq4ct", "invalid_value", format!("uq4ct.{reason}")),
            false => refused("messages", "invalid_value", format!("messages: {reason}")),
        }
    })?;
    let asking = shared.worker.ask(vec![asked], vec![false]);
    let mut replies = attended(&client, version, asking).await?;
    let Reply { answer, .. } = replies.pop().ok_or(Unanswered::Gone)?;
    Ok(Json(completion(&request, answer)))
}

/// `GET /v1/models`
pub(super) async fn models(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({
        "object": "list",
        "data": [{
            "id": model(&shared),
            "object": "model",
            "created": shared.began,
            "owned_by": "uq4ct",
        }],
    }))
}

/// The run's name: its directory's.
fn model(shared: &Shared) -> &str {
    let run = shared.about["run"].as_str().unwrap_or_default();
    let name = std::path::Path::new(run).file_name();
    name.and_then(|name| name.to_str()).unwrap_or("uq4ct")
}

/// Gives the errors of these routes OpenAI's form.
pub(super) async fn in_its_form(request: Request<Body>, next: Next) -> Response {
    let path = request.uri().path();
    let own = path == CHAT || path == MODELS;
    let response = next.run(request).await;
    let Some(said) = response.extensions().get::<Said>().filter(|_| own) else {
        return response;
    };
    let status = response.status();
    let kind = match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let body = json!({"error": {
        "message": said.message,
        "type": kind,
        "param": said.param,
        "code": said.code,
    }});
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    (parts, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_from_lettered_lines() {
        let read = |text: &str| lettered(text);
        let (question, choices) = read("Which?\nReally.\n\nA) this\n B) that \n").unwrap();
        assert_eq!(question, "Which?\nReally.");
        assert_eq!(choices, ["this", "that"]);
        for text in ["Q\n(A) x\n(B) y", "Q\nA. x\nB. y", "Q\nA: x\nB: y"] {
            let (question, choices) = read(text).unwrap();
            assert_eq!((&*question, choices.len()), ("Q", 2), "{text}");
        }
        for text in [
            "Which?",
            "Which?\nA) only",
            "Which?\nA) x\nC) y",
            "Which?\nA) x\nB) y\nAnswer:",
            "A sentence. B is no choice.",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}

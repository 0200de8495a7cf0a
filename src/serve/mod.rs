//! A finished run over HTTP: questions in, answers with their confidence out.
//!
//! | | |
//! |---|---|
//! | [`worker`] | the thread that owns the model, and batches |
//! | [`metrics`] | what is counted |
//! | `openapi` | the description of the interface |

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, MatchedPath, State};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use data::dataset::custom::Custom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use train::TrainError;
use train::answering::Asked;

use metrics::Metrics;
use worker::{Reply, Unanswered, Worker};

pub mod metrics;
mod openapi;
pub mod worker;

/// What a server lets through.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Questions of one request.
    pub questions: usize,
    /// Time for one request, its waiting included.
    pub time: Duration,
    /// The word that opens the doors, if they are locked.
    pub token: Option<String>,
}

/// A question.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The question alone.
    pub question: String,
    /// 2 to 26 answers; left out where the model writes its answers.
    #[serde(default)]
    pub choices: Vec<String>,
    /// A text that answers it, for runs whose template reads one.
    #[serde(default)]
    pub context: Option<String>,
    /// Its name, given back with the answer.
    #[serde(default)]
    pub id: Option<String>,
    /// Tell how every router spread the question, too.
    #[serde(default)]
    pub routing: bool,
}

/// Several questions.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    /// In the order of the answers.
    pub questions: Vec<Question>,
}

/// Their answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Answers {
    /// In the order of the questions.
    pub answers: Vec<Reply>,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Problem {
    /// In words, with what to do.
    pub error: String,
}

/// A response that is no answer.
#[derive(Debug)]
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        let mut response = (status, Json(Problem { error })).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<Unanswered> for Failure {
    fn from(reason: Unanswered) -> Self {
        match reason {
            Unanswered::Busy => Self(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests wait already: try again in a second".into(),
            ),
            Unanswered::Gone => Self(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the model has stopped answering: see the server's log, and start it again".into(),
            ),
            // What the question itself brings about is its sender's to mend.
            Unanswered::Refused(error @ (TrainError::Data(_) | TrainError::Config { .. })) => {
                Self(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            Unanswered::Refused(error) => {
                Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}

/// What every handler needs.
#[derive(Debug, Clone)]
struct Shared {
    worker: Worker,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    about: Arc<serde_json::Value>,
    /// The model writes its answers.
    writes: bool,
}

/// The routes. `about` describes the run, for the page and for `/v1/run`; its `writes` says whether questions come without choices.
pub fn router(
    worker: Worker,
    metrics: Arc<Metrics>,
    limits: Limits,
    about: serde_json::Value,
) -> Router {
    let shared = Shared {
        worker,
        metrics,
        writes: about["writes"] == true,
        about: Arc::new(about),
        limits: Arc::new(limits),
    };
    let locked = Router::new()
        .route("/v1/answer", post(answer))
        .route("/v1/answers", post(answers))
        .route("/v1/run", get(about_run))
        .route("/metrics", get(metrics_text))
        .layer(DefaultBodyLimit::max(shared.limits.body))
        .route_layer(middleware::from_fn_with_state(shared.clone(), authorized));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .merge(locked)
        .method_not_allowed_fallback(|| async {
            Failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "the method does not fit: see /openapi.json".into(),
            )
        })
        .fallback(|| async {
            Failure(
                StatusCode::NOT_FOUND,
                "no such place: see /openapi.json".into(),
            )
        })
        .layer(middleware::from_fn_with_state(shared.clone(), watched))
        .with_state(shared)
}

/// Serves until `stop`; requests that have begun are finished, for as long as one may take.
///
/// # Errors
/// A socket that fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    time: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let graceful = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        let _ = stopping.send(());
    });
    let late = async move {
        let _ = stopped.await;
        tokio::time::sleep(time).await;
    };
    tokio::select! {
        ended = graceful => ended,
        () = late => Ok(()),
    }
}

/// Measures every request, and ends it when its time is up.
async fn watched(State(shared): State<Shared>, request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none".into(), |path| path.as_str().to_owned());
    let limit = shared.limits.time;
    let response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure(
            StatusCode::GATEWAY_TIMEOUT,
            format!(
                "no answer within {} s: ask fewer questions, or raise --timeout",
                limit.as_secs()
            ),
        )
        .into_response(),
    };
    let labels = metrics::Request {
        route,
        status: response.status().as_u16(),
    };
    shared.metrics.requests.get_or_create(&labels).inc();
    shared
        .metrics
        .seconds
        .observe(began.elapsed().as_secs_f64());
    response
}

/// Lets through who has the token. Without one the server is this machine's alone, and so must be the name by which it was asked: a
/// page of a stranger whose name resolves to this machine would otherwise read the answers (DNS rebinding).
async fn authorized(State(shared): State<Shared>, request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    if shared.limits.token.is_none() && !is_this_machine(host) {
        let reason = format!("ask this server as localhost, not as {host:?}, or give it a token");
        return Failure(StatusCode::FORBIDDEN, reason).into_response();
    }
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .map(|(_, token)| token);
    match &shared.limits.token {
        Some(token) if !given.is_some_and(|given| same(given, token.as_bytes())) => Failure(
            StatusCode::UNAUTHORIZED,
            "give the server's token: Authorization: Bearer TOKEN".into(),
        )
        .into_response(),
        _ => next.run(request).await,
    }
}

/// Whether a `Host` header names a loopback address.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_loopback());
    loopback || bare.eq_ignore_ascii_case("localhost")
}

/// Compares in a time that does not depend on where two words differ.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differ = given
        .iter()
        .zip(token)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differ) == 0
}

/// A question as the model is asked it.
fn asked(question: &Question, writes: bool) -> Result<Asked, String> {
    if writes && !question.choices.is_empty() {
        return Err("choices: this run writes its answers: leave them out".into());
    }
    let row = serde_json::json!({
        "id": question.id,
        "question": question.question,
        "choices": question.choices,
        "context": question.context,
    });
    let (question, _) = Custom::default().writing(writes).ask(&row)?;
    Ok(Asked {
        question,
        answer: None,
    })
}

async fn answer(
    State(shared): State<Shared>,
    body: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Reply>, Failure> {
    let Json(question) = body?;
    let asked = asked(&question, shared.writes)
        .map_err(|e| Failure(StatusCode::UNPROCESSABLE_ENTITY, e))?;
    let mut replies = shared
        .worker
        .ask(vec![asked], vec![question.routing])
        .await?;
    Ok(Json(replies.pop().ok_or(Unanswered::Gone)?))
}

async fn answers(
    State(shared): State<Shared>,
    body: Result<Json<Questions>, JsonRejection>,
) -> Result<Json<Answers>, Failure> {
    let Json(Questions { questions }) = body?;
    let bad = |reason: String| Failure(StatusCode::UNPROCESSABLE_ENTITY, reason);
    let most = shared.limits.questions;
    if questions.is_empty() || questions.len() > most {
        let reason = format!("questions: expected 1 to {most}, got {}", questions.len());
        return Err(bad(reason));
    }
    let asked = questions
        .iter()
        .enumerate()
        .map(|(place, question)| {
            asked(question, shared.writes)
                .map_err(|reason| bad(format!("questions[{place}].{reason}")))
        })
        .collect::<Result<_, _>>()?;
    let routing = questions.iter().map(|q| q.routing).collect();
    let replies = shared.worker.ask(asked, routing).await?;
    Ok(Json(Answers { answers: replies }))
}

async fn health(State(shared): State<Shared>) -> Result<Json<serde_json::Value>, Failure> {
    match shared.worker.is_alive() {
        true => Ok(Json(serde_json::json!({"status": "ok"}))),
        false => Err(Failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the model has stopped answering".into(),
        )),
    }
}

async fn about_run(State(shared): State<Shared>) -> Json<serde_json::Value> {
    Json((*shared.about).clone())
}

async fn metrics_text(State(shared): State<Shared>) -> Result<Response, Failure> {
    let text = shared
        .metrics
        .text()
        .map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(include_str!("page.html"))).into_response()
}

//! A finished run over HTTP: questions in, answers with their confidence out.
//!
//! | | |
//! |---|---|
//! | this file | the routes and their handlers |
//! | [`messages`] | the JSON that goes in and comes out |
//! | [`connections`] | how many at a time, for how long, and how they end |
//! | `client` | the other end of a connection: whether it is still there |
//! | [`worker`] | the thread that owns the model |
//! | [`outcome`] | answers, and why there are none |
//! | `queue`, `load` | whose turn it is; what may be promised to a new request |
//! | [`metrics`] | what is counted |
//! | `headers` | every header that is set |
//! | `access` | who may ask |
//! | `failure` | which status each failure has |
//! | `openai` | the same in the form of chat completions |
//! | `openapi` | the description of the interface |

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, MatchedPath, State};
use axum::http::{Request, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use access::{addressed, authorized};
use client::Client;
use failure::Failure;
use messages::{Answers, Question, Questions, Takes};
use metrics::Metrics;
use outcome::{Reply, Unanswered};
use worker::Worker;

mod access;
mod client;
pub mod connections;
mod failure;
mod headers;
mod load;
pub mod messages;
pub mod metrics;
mod openai;
mod openapi;
pub mod outcome;
mod queue;
pub mod worker;

/// Limits of a request, and the token that it must bear.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Questions of one request.
    pub questions: usize,
    /// Time for one request, its waiting included.
    pub time: Duration,
    /// The token that every request must bear. Without one, only this machine may ask.
    pub token: Option<String>,
}

/// What every handler needs.
#[derive(Debug, Clone)]
struct Shared {
    worker: Worker,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    about: Arc<serde_json::Value>,
    takes: Takes,
    /// When the server began, in seconds of Unix time.
    began: u64,
}

/// The routes. `about` describes the run, for the page and for `/v1/run`. Its `writes` says
/// whether questions come without choices, its `context` whether they may come with a text that
/// answers them.
pub fn router(
    worker: Worker,
    metrics: Arc<Metrics>,
    limits: Limits,
    about: serde_json::Value,
) -> Router {
    let shared = Shared {
        worker,
        metrics,
        takes: Takes {
            writes: about["writes"] == true,
            context: about["context"] == true,
        },
        about: Arc::new(about),
        began: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        limits: Arc::new(limits),
    };
    let locked = Router::new()
        .route("/v1/answer", post(answer))
        .route("/v1/answers", post(answers))
        .route("/v1/run", get(about_run))
        .route(openai::CHAT, post(openai::chat))
        .route(openai::MODELS, get(openai::models))
        .route("/metrics", get(metrics_text))
        .layer(DefaultBodyLimit::max(shared.limits.body))
        .route_layer(middleware::from_fn_with_state(shared.clone(), authorized));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .merge(locked)
        .method_not_allowed_fallback(|| async {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong HTTP method: see /openapi.json",
            )
        })
        .fallback(|| async {
            Failure::new(StatusCode::NOT_FOUND, "no such place: see /openapi.json")
        })
        .layer(middleware::from_fn_with_state(shared.clone(), addressed))
        .layer(middleware::from_fn_with_state(shared.clone(), watched))
        .layer(middleware::from_fn(openai::in_its_form))
        .with_state(shared)
}

/// Measures every request, and ends it when its time is up.
async fn watched(State(shared): State<Shared>, request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none".into(), |path| path.as_str().to_owned());
    let client = request.extensions().get::<Arc<Client>>().cloned();
    let limit = shared.limits.time;
    let seconds = limit.as_secs();
    // Kept to the end, so that a late one still knows how far it got.
    let mut running = pin!(next.run(request));
    let response = match tokio::time::timeout(limit, running.as_mut()).await {
        Ok(response) => response,
        Err(_) if client.is_some_and(|client| client.is_attended()) => Failure::again(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer within {seconds} s: ask fewer questions, or raise --timeout"),
            shared.worker.again(),
        )
        .into_response(),
        Err(_) => Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the request did not arrive within {seconds} s"),
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

async fn answer(
    State(shared): State<Shared>,
    Extension(client): Extension<Arc<Client>>,
    version: Version,
    body: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Reply>, Failure> {
    let Json(question) = body?;
    let asked = question.asked(shared.takes).map_err(Failure::question)?;
    let asking = shared.worker.ask(vec![asked], vec![question.routing]);
    let mut replies = attended(&client, version, asking).await?;
    Ok(Json(replies.pop().ok_or(Unanswered::Gone)?))
}

/// The answers, unless the client goes before.
async fn attended<E: Into<Failure>>(
    client: &Client,
    version: Version,
    asking: impl Future<Output = Result<Vec<Reply>, E>>,
) -> Result<Vec<Reply>, Failure> {
    let answers = client.attend(version == Version::HTTP_11, asking).await;
    answers.ok_or_else(Failure::gone)?.map_err(Into::into)
}

/// Why a request of several questions got no answer, and for which of them.
fn of_several(reason: Unanswered) -> Failure {
    let place = match &reason {
        Unanswered::Refused { place, .. } => *place,
        _ => None,
    };
    let failure = Failure::from(reason);
    match place {
        Some(place) => failure.at(place),
        None => failure,
    }
}

async fn answers(
    State(shared): State<Shared>,
    Extension(client): Extension<Arc<Client>>,
    version: Version,
    body: Result<Json<Questions>, JsonRejection>,
) -> Result<Json<Answers>, Failure> {
    let Json(Questions { questions }) = body?;
    let most = shared.limits.questions;
    if questions.is_empty() || questions.len() > most {
        let reason = format!("questions: expected 1 to {most}, got {}", questions.len());
        return Err(Failure::question(reason));
    }
    let asked = questions
        .iter()
        .enumerate()
        .map(|(place, question)| {
            let asked = question.asked(shared.takes);
            asked.map_err(|reason| Failure::question(format!("questions[{place}].{reason}")))
        })
        .collect::<Result<_, _>>()?;
    let routing = questions.iter().map(|q| q.routing).collect();
    let asking = shared.worker.ask(asked, routing);
    let asking = async { asking.await.map_err(of_several) };
    let replies = attended(&client, version, asking).await?;
    Ok(Json(Answers { answers: replies }))
}

async fn health(State(shared): State<Shared>) -> Result<Json<serde_json::Value>, Failure> {
    match shared.worker.is_alive() {
        true => Ok(Json(serde_json::json!({"status": "ok"}))),
        false => Err(Failure::again(
            StatusCode::SERVICE_UNAVAILABLE,
            "the model has stopped answering",
            shared.limits.time.as_secs(),
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
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok((headers::METRICS, text).into_response())
}

async fn page() -> Response {
    (headers::PAGE, Html(include_str!("page.html"))).into_response()
}

//! The OpenAPI document: paths by hand, schemas from the types themselves.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::messages::{Answers, Problem, Question, Questions};
use super::openai::{CHAT, ChatRequest, Completion, MODELS};
use super::outcome::Reply;

/// The document.
pub(super) fn document() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut schemas: SchemaGenerator = settings.into_generator();
    let names = [
        schemas.subschema_for::<Question>(),
        schemas.subschema_for::<Questions>(),
        schemas.subschema_for::<Reply>(),
        schemas.subschema_for::<Answers>(),
        schemas.subschema_for::<Problem>(),
        schemas.subschema_for::<ChatRequest>(),
        schemas.subschema_for::<Completion>(),
    ]
    .map(schemars::Schema::to_value);
    let [
        question,
        questions,
        reply,
        answers,
        problem,
        chat,
        completion,
    ] = names;
    let body = |about: &str, schema: &Value| json!({"description": about, "content": {"application/json": {"schema": schema}}});
    let later = |about: &str| {
        json!({
            "description": about,
            "headers": {"Retry-After": {"description": "Seconds after which to ask again", "schema": {"type": "integer"}}},
            "content": {"application/json": {"schema": problem}},
        })
    };
    let plain = |about: &str| json!({"description": about});
    let post = |about: &str, input: &Value, output: &Value| {
        json!({"post": {
            "summary": about,
            "security": [{"token": []}, {}],
            "requestBody": {"required": true, "content": {"application/json": {"schema": input}}},
            "responses": {
                "200": body("The answer", output),
                "400": body("Not JSON, or not one Host", &problem),
                "401": body("The token is missing or wrong", &problem),
                "408": body("The request did not arrive in time", &problem),
                "413": body("The body is too long, or its questions take longer than a request may", &problem),
                "415": body("The content type is not application/json", &problem),
                "422": body("A question that cannot be put, with the field and the reason", &problem),
                "403": body("Asked by a name that is not this machine's, without a token", &problem),
                "500": body("The model failed", &problem),
                "503": later("The queue is too long to answer in time"),
                "504": later("No answer in time"),
            },
        }})
    };
    // The same failures, said as OpenAI says them.
    let openai = |about: &str| {
        body(
            about,
            &json!({"type": "object", "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}}}}),
        )
    };
    let mut chat_path = post(
        "Answer one question, in the form of OpenAI's chat completions",
        &chat,
        &completion,
    );
    if let Some(responses) = chat_path["post"]["responses"].as_object_mut() {
        for (status, response) in responses.iter_mut().filter(|(status, _)| *status != "200") {
            let about = response["description"]
                .as_str()
                .unwrap_or(status)
                .to_owned();
            response["content"] = openai(&about)["content"].take();
        }
        let refused = "A request that cannot be served, with the field and the reason";
        responses.insert("400".into(), openai(refused));
        responses.insert("404".into(), openai("No model of that name"));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "uq4ct",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Questions, with choices or open-ended as the run was trained, answered by a fine-tuned language model, each with a confidence that was calibrated on held-out questions, and, where the server was started with a promise, a decision to answer or to abstain.",
        },
        "paths": {
            "/v1/answer": post("Answer one question", &question, &reply),
            "/v1/answers": post("Answer several questions", &questions, &answers),
            CHAT: chat_path,
            MODELS: {"get": {"summary": "The one run, as OpenAI lists models", "security": [{"token": []}, {}], "responses": {"200": plain("The list"), "401": openai("The token is missing or wrong")}}},
            "/v1/run": {"get": {"summary": "What answers: the run, its model and its promise", "security": [{"token": []}, {}], "responses": {"200": plain("The run"), "401": body("The token is missing or wrong", &problem)}}},
            "/metrics": {"get": {"summary": "Counters for Prometheus", "security": [{"token": []}, {}], "responses": {"200": plain("OpenMetrics text"), "401": body("The token is missing or wrong", &problem)}}},
            "/healthz": {"get": {"summary": "Whether the model answers", "responses": {"200": plain("It does"), "503": body("It does not", &problem)}}},
        },
        "components": {
            "schemas": schemas.definitions(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

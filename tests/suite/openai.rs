//! `POST /v1/chat/completions` and `GET /v1/models`, by raw HTTP. `.ci/peers` asks them by the
//! official Python client.

use serde_json::{Value, json};

use crate::support::programs::train;
use crate::support::server::Server;

const CHAT: &str = "/v1/chat/completions";

fn asked(content: impl Into<Value>) -> Value {
    json!({"model": "r", "messages": [{"role": "user", "content": content.into()}]})
}

/// The request with further fields.
fn with(mut request: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(more);
    request
}

#[test]
fn a_chat_completion_is_the_answer_with_its_confidence() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), "r", &[]);
    let server = Server::start(root.path(), &[], None);
    let (_, own) = server.post(
        "/v1/answer",
        &json!({"question": "is the sky blue", "choices": ["true", "false"], "id": "sky"}),
    );
    let extra = json!({"uq4ct": {"choices": ["true", "false"], "id": "sky"}});
    let more = json!({"logprobs": true, "top_logprobs": 5, "temperature": 0, "stop": null});
    let request = with(with(asked("is the sky blue"), extra), more);
    let (status, answer) = server.post(CHAT, &request);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "r");
    for key in [
        "answer",
        "text",
        "confidence",
        "interval",
        "calibrated_on",
        "flu",
        "set",
        "id",
    ] {
        assert_eq!(answer["uq4ct"][key], own[key], "{key}");
    }
    let choice = &answer["choices"][0];
    let letter = ["A", "B"][own["answer"].as_u64().unwrap() as usize];
    assert_eq!(choice["message"]["content"], letter);
    assert_eq!(choice["finish_reason"], "stop");
    let token = &choice["logprobs"]["content"][0];
    assert_eq!(token["token"], letter);
    let stated = own["probability"].as_f64().unwrap();
    assert!((token["logprob"].as_f64().unwrap().exp() - stated).abs() < 1e-6);
    let top = token["top_logprobs"].as_array().unwrap();
    let total: f64 = top
        .iter()
        .map(|one| one["logprob"].as_f64().unwrap().exp())
        .sum();
    assert!(top.len() == 2 && (total - 1.0).abs() < 1e-6, "{top:?}");
    assert_eq!(top[0]["token"], letter);

    // The same choices as lines, and as parts of a message.
    let lines = "is the sky blue\nA) true\nB) false";
    let part = |text: &str| json!({"type": "text", "text": text});
    let parts = json!([part("is the sky blue\nA) true"), part("B) false")]);
    for content in [json!(lines), json!([part(lines)]), parts] {
        let (status, same) = server.post(CHAT, &asked(content));
        assert_eq!(status, 200, "{same}");
        assert_eq!(same["uq4ct"]["probabilities"], own["probabilities"]);
        assert!(same["choices"][0]["logprobs"].is_null());
    }
    let (status, _, body) = server.get("/v1/models");
    let models: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("r")));
    assert_eq!(models["object"], "list");
}

#[test]
fn what_it_cannot_do_is_refused_in_openais_form() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), "r", &[]);
    let server = Server::start(root.path(), &["--max-body", "5000"], None);
    let good = "q\nA) x\nB) y";
    let messages =
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": good}]);
    for (request, status, code, part) in [
        (
            with(asked(good), json!({"stream": true})),
            400,
            json!("unsupported_value"),
            "stream",
        ),
        (
            with(asked(good), json!({"n": 2})),
            400,
            json!("unsupported_value"),
            "n: ",
        ),
        (
            with(asked(good), json!({"tools": []})),
            400,
            json!("unknown_parameter"),
            "tools",
        ),
        (
            with(asked(good), json!({"top_logprobs": 2})),
            400,
            json!("invalid_value"),
            "logprobs = true",
        ),
        (
            with(asked(good), json!({"messages": messages})),
            400,
            json!("invalid_value"),
            "one user message",
        ),
        (
            with(asked(good), json!({"model": "gpt-4o"})),
            404,
            json!("model_not_found"),
            "there is r alone",
        ),
        (
            asked("no choices"),
            400,
            json!("invalid_value"),
            "uq4ct.choices",
        ),
        (
            with(asked("q"), json!({"uq4ct": {"choices": ["one"]}})),
            400,
            json!("invalid_value"),
            "at least 2",
        ),
        (
            json!({"model": "r"}),
            422,
            Value::Null,
            "missing field `messages`",
        ),
        (asked("x".repeat(6000)), 413, Value::Null, "length limit"),
    ] {
        let (found, said) = server.post(CHAT, &request);
        let error = &said["error"];
        let message = error["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{said}"));
        assert!(
            found == status && message.contains(part),
            "{request}: {found} {said}"
        );
        assert_eq!(error["type"], "invalid_request_error", "{said}");
        assert_eq!(error["code"], code, "{said}");
    }
    let (status, _, body) = server.http("DELETE /v1/chat/completions HTTP/1.1", "");
    assert!(status == 405 && body.contains("\"message\""), "{body}");
    // Other routes keep their own form.
    let (_, said) = server.post("/v1/answer", &json!({"question": "q", "choices": ["a"]}));
    assert!(said["error"].is_string(), "{said}");
    let (_, _, document) = server.get("/openapi.json");
    let document: Value = serde_json::from_str(&document).unwrap();
    let responses = &document["paths"][CHAT]["post"]["responses"];
    assert!(
        responses["404"].is_object() && responses["503"].is_object(),
        "{responses}"
    );
    drop(server);
    let guarded = Server::start(root.path(), &[], Some("0123456789abcdef"));
    let (status, said) = guarded.post(CHAT, &asked(good));
    assert_eq!(
        (status, &said["error"]["type"]),
        (401, &json!("authentication_error"))
    );
}

#[test]
fn an_abstention_is_a_refusal_and_written_answers_are_messages() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), "r", &[]);
    let server = Server::start(root.path(), &["--coverage", "0.01"], None);
    let abstained = (0..40).find_map(|n| {
        let (status, answer) = server.post(CHAT, &asked(format!("is {n} odd\nA) true\nB) false")));
        assert_eq!(status, 200, "{answer}");
        (answer["uq4ct"]["decision"] == "abstain").then_some(answer)
    });
    let message = &abstained.expect("no question was abstained from")["choices"][0]["message"];
    assert!(message["content"].is_null(), "{message}");
    assert!(
        message["refusal"].as_str().unwrap().contains("abstains"),
        "{message}"
    );
    drop(server);
    std::fs::remove_dir_all(root.path().join("r")).unwrap();
    let written = ["--dataset", "triviaqa", "--set", "train.max_steps=2"];
    let args = [
        &["train", "--model", "tiny", "--plain", "--run", "r"],
        &written[..],
    ]
    .concat();
    crate::support::programs::succeeds(root.path(), &args);
    let server = Server::start(root.path(), &[], None);
    let (status, answer) = server.post(CHAT, &asked("How is dog spelled backwards?"));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        answer["uq4ct"]["text"]
    );
    let (status, said) = server.post(CHAT, &with(asked("q?"), json!({"logprobs": true})));
    assert_eq!((status, &said["error"]["param"]), (400, &json!("logprobs")));
}

//! `uq4ct serve` as a client meets it.

use serde_json::{Value, json};

use crate::support::programs::{ASK, outcome, train};
use crate::support::server::Server;

fn question(text: &str) -> Value {
    json!({"question": text, "choices": ["true", "false"], "id": text})
}

#[test]
fn answers_equal_those_of_predict_and_bad_requests_are_named() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    let server = Server::start(root, &["--coverage", "0.5", "--max-body", "5000"], None);

    let (status, answer) = server.post("/v1/answer", &question("is the sky blue"));
    assert_eq!(status, 200, "{answer}");
    let ask = [&ASK[..], &["--coverage", "0.5", "--json"]].concat();
    let (_, printed, _) = outcome(root, &ask);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    for key in ["answer", "text", "decision", "set"] {
        assert_eq!(answer[key], printed[key], "{key}");
    }
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6;
    assert!(
        close(&answer["probability"], &printed["probability"])
            && close(&answer["flu"], &printed["flu"])
    );
    assert!(answer.get("routing").is_none());

    // The tiny model has 2 layers of 2 routers of 8 experts; a router's shares sum to 1, and FLU is
    // the mean of the masses.
    let mut routed = question("is the sky blue");
    routed["routing"] = true.into();
    let (_, answer) = server.post("/v1/answer", &routed);
    let routers = answer["routing"].as_array().unwrap();
    assert_eq!(
        (routers.len(), &routers[1]["place"], &routers[3]["layer"]),
        (4, &json!("feed_forward"), &json!(1))
    );
    let masses: f64 = routers.iter().map(|r| r["mass"].as_f64().unwrap()).sum();
    assert!((masses / 4.0 - answer["flu"].as_f64().unwrap()).abs() < 1e-5);
    for router in routers {
        let total: f64 = router["experts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p.as_f64().unwrap())
            .sum();
        assert!((total - 1.0).abs() < 1e-5);
    }

    let several = json!({"questions": [question("one"), question("two")]});
    let (status, answers) = server.post("/v1/answers", &several);
    assert_eq!((status, &answers["answers"][1]["id"]), (200, &json!("two")));

    for (body, status, part) in [
        (
            json!({"question": "q", "choices": ["a"]}),
            422,
            "choices: expected at least 2",
        ),
        (
            json!({"question": "q", "choices": ["a", " "]}),
            422,
            "choices: choice 2 is empty",
        ),
        (
            json!({"question": "q", "choices": ["a", "b"], "context": "A text."}),
            422,
            "context: this run's prompt has no place for one",
        ),
        (
            json!({"question": "q", "choices": ["a", "b"], "colour": 1}),
            422,
            "unknown field `colour`",
        ),
        (
            json!({"question": " ", "choices": ["a", "b"]}),
            422,
            "question: is empty",
        ),
        (
            json!({"question": "x".repeat(6000), "choices": ["a", "b"]}),
            413,
            "length limit",
        ),
        // The tiny tokenizer has labels from A to E.
        (
            json!({"question": "q", "choices": ["a", "b", "c", "d", "e", "f"]}),
            422,
            "",
        ),
    ] {
        let (found, said) = server.post("/v1/answer", &body);
        let reason = said["error"].as_str().unwrap();
        assert!(
            found == status && reason.contains(part),
            "{body}: {found} {reason}"
        );
    }
    // Which question it is, whether its fields tell or only the tokenizer.
    let six = json!(["a", "b", "c", "d", "e", "f"]);
    for (choices, place) in [(json!([]), "questions[1].choices"), (six, "questions[1]: ")] {
        let broken = json!({"questions": [question("one"), {"question": "q", "choices": choices}]});
        let (status, said) = server.post("/v1/answers", &broken);
        let reason = said["error"].as_str().unwrap();
        assert!(status == 422 && reason.starts_with(place), "{said}");
    }
    assert_eq!(
        server
            .http(
                "POST /v1/answer HTTP/1.1\r\nContent-Type: application/json",
                "{"
            )
            .0,
        400
    );
    assert_eq!(server.http("POST /v1/answer HTTP/1.1", "{}").0, 415);
    assert_eq!(
        (server.get("/v1/answer").0, server.get("/nowhere").0),
        (405, 404)
    );

    let stranger = server.http("GET /v1/run HTTP/1.1\r\nHost: evil.example:80", "");
    assert_eq!(stranger.0, 403, "{stranger:?}");
    let (status, head, page) = server.get("/");
    assert!(
        status == 200
            && head.contains("default-src 'none'")
            && page.contains("<textarea id=\"choices\"")
    );
    assert_eq!(server.get("/healthz").2, r#"{"status":"ok"}"#);
    let document: Value = serde_json::from_str(&server.get("/openapi.json").2).unwrap();
    let reference = &document["paths"]["/v1/answer"]["post"]["responses"]["200"]["content"]["application/json"]
        ["schema"]["$ref"];
    let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
    let properties = &document["components"]["schemas"][name]["properties"];
    assert!(
        properties["flu"].is_object() && properties["routing"].is_object(),
        "{document:#}"
    );
    let counted = server.get("/metrics").2;
    assert!(
        counted.contains(r#"uq4ct_requests_total{route="/v1/answer",status="200"} 2"#),
        "{counted}"
    );
    assert!(
        counted.contains(r#"uq4ct_requests_total{route="none",status="404"} 1"#),
        "{counted}"
    );
    server.stop();
}

#[test]
fn concurrent_questions_share_a_pass_and_keep_their_own_answers() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    let server = Server::start(root, &["--wait", "300", "--batch", "8"], None);
    let alone: Vec<f64> = (0..6)
        .map(|i| {
            server
                .post("/v1/answer", &question(&format!("question {i}")))
                .1["probability"]
                .as_f64()
                .unwrap()
        })
        .collect();
    // One of them cannot be put; it must not cost the others theirs.
    let six: Vec<String> = "abcdef".chars().map(String::from).collect();
    let together = std::thread::scope(|scope| {
        let bad =
            scope.spawn(|| server.post("/v1/answer", &json!({"question": "q", "choices": six})));
        let asked: Vec<_> = (0..6)
            .map(|i| {
                let server = &server;
                scope.spawn(move || server.post("/v1/answer", &question(&format!("question {i}"))))
            })
            .collect();
        assert_eq!(bad.join().unwrap().0, 422);
        asked
            .into_iter()
            .map(|t| t.join().unwrap().1)
            .collect::<Vec<_>>()
    });
    for (i, (answer, alone)) in together.iter().zip(alone).enumerate() {
        assert_eq!(answer["id"], json!(format!("question {i}")));
        assert!((answer["probability"].as_f64().unwrap() - alone).abs() < 1e-5);
    }
    let counted = server.get("/metrics").2;
    let passes: f64 = counted
        .lines()
        .find_map(|line| line.strip_prefix("uq4ct_batch_questions_count "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(passes < 13.0, "{passes} passes for 13 questions");
    server.stop();
}

#[test]
fn locked_doors_and_lateness() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root, "r", &[]);
    let open = outcome(root, &["serve", "r", "--host", "0.0.0.0", "--port", "0"]);
    assert!(open.0 == 2 && open.2.contains("set a token"), "{open:?}");
    let token = "0123456789abcdef";
    // A window longer than the limit: nobody is answered in time.
    let server = Server::start(
        root,
        &["--host", "0.0.0.0", "--wait", "5000", "--timeout", "1"],
        Some(token),
    );
    assert_eq!(server.get("/metrics").0, 401);
    assert_eq!(server.get("/healthz").0, 200);
    let ask = |bearer: &str| {
        let head = format!(
            "POST /v1/answer HTTP/1.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {bearer}"
        );
        server.http(&head, question("q").to_string())
    };
    assert_eq!(ask("0123456789abcdeX").0, 401);
    let (status, _, body) = ask(token);
    assert!(
        status == 504 && body.contains("no answer within 1 s"),
        "{status} {body}"
    );
    server.stop();
}

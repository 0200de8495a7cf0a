//! Own files in the shapes that people have.

use super::*;
use serde_json::json;

fn answer(custom: &Custom, row: &Value) -> Result<Option<usize>, String> {
    custom.parse(row).map(|q| q.map(|q| q.answer))
}

#[test]
fn answers_by_index_letter_and_text() {
    let custom = Custom::default();
    let row =
        |answer: Value| json!({"question": "Which?", "choices": ["a", "b", "7"], "answer": answer});
    for (given, expected) in [
        (json!(1), 1),
        (json!("1"), 1),
        (json!("B"), 1),
        (json!("b"), 1),
        (json!("7"), 2),
        (json!("2"), 2),
        (json!("a"), 0),
    ] {
        assert_eq!(
            answer(&custom, &row(given.clone())),
            Ok(Some(expected)),
            "{given}"
        );
    }
    assert_eq!(answer(&custom, &row(json!(null))), Ok(None));
    let error = answer(&custom, &row(json!("z"))).unwrap_err();
    assert!(
        error.starts_with("answer: expected an index from 0"),
        "{error}"
    );
    let error = answer(&custom, &row(json!(3))).unwrap_err();
    assert_eq!(error, "answer: 3 is past the 3 choices (0 is the first)");
    let from_one = Custom {
        count_from: Some(1),
        ..Custom::default()
    };
    let error = answer(&from_one, &row(json!(4))).unwrap_err();
    assert_eq!(error, "answer: 4 is past the 3 choices (1 is the first)");
    let error = answer(&from_one, &row(json!("z"))).unwrap_err();
    assert!(
        error.starts_with("answer: expected an index from 1"),
        "{error}"
    );
}

/// The first of two would be taken for what nobody said.
#[test]
fn an_answer_that_means_several_choices_is_refused() {
    let custom = Custom::default();
    let labels = json!({"question": "Which?", "choices": [
        {"text": "x", "label": "A"}, {"text": "y", "label": "A"}], "answer": "A"});
    let error = answer(&custom, &labels).unwrap_err();
    assert!(error.contains("\"A\" is the label of 2 choices"), "{error}");
    let row = |given: Value| json!({"question": "Which?", "choices": ["red", "red", "blue"], "answer": given});
    let error = answer(&custom, &row(json!("red"))).unwrap_err();
    assert!(
        error.contains("\"red\" is the text of 2 choices"),
        "{error}"
    );
    for (given, place) in [(json!("B"), 1), (json!(1), 1), (json!("blue"), 2)] {
        assert_eq!(answer(&custom, &row(given)), Ok(Some(place)));
    }
    let numbers = json!({"question": "Which?", "choices": [
        {"text": "x", "label": "1"}, {"text": "y", "label": "1"}], "answer": 1});
    assert!(
        answer(&custom, &numbers)
            .unwrap_err()
            .contains("the label of 2 choices")
    );
    // A letter that is also the text of two choices is a letter still, and an index an index.
    let letter = json!({"question": "Which?", "choices": ["A", "B", "C", "C"], "answer": "C"});
    assert_eq!(answer(&custom, &letter), Ok(Some(2)));
    let by_index: Vec<Row> = (0..8)
        .map(|i| {
            let choices = match i {
                7 => ["3", "5", "3", "7"],
                _ => ["10", "20", "30", "40"],
            };
            let row = json!({"question": format!("{i}?"), "choices": choices, "answer": (i % 4).to_string()});
            (i + 1, row)
        })
        .collect();
    let decided = custom.decided_by(&by_index).unwrap();
    assert_eq!(answer(&decided, &by_index[7].1), Ok(Some(3)));
}

#[test]
fn other_names_columns_and_cells() {
    let custom = Custom {
        question: "stem".into(),
        choices: ["A", "B", "C"].map(String::from).into(),
        answer: "key".into(),
        ..Custom::default()
    };
    let row = json!({"stem": " Which? ", "A": "x", "B": 2, "C": "", "key": "2"});
    let question = custom.parse(&row).unwrap().unwrap();
    assert_eq!(question.choices, ["x", "2"]);
    assert_eq!((&*question.question, question.answer), ("Which?", 1));
    let cell = json!({"question": "Q", "choices": "[\"x\", \"y\"]", "answer": "y"});
    assert_eq!(answer(&Custom::default(), &cell), Ok(Some(1)));
    let flat = json!({"question": "Q", "choices": "x|y", "answer": "y"});
    assert!(
        answer(&Custom::default(), &flat)
            .unwrap_err()
            .starts_with("choices: expected")
    );
    let gap = json!({"stem": "Which?", "A": "", "B": "x", "C": "y", "key": "B"});
    assert!(custom.parse(&gap).unwrap_err().starts_with("A: is empty"));
    let clash = json!({"question": "Q", "choices": ["3", "1", "0"], "answer": "0"});
    let error = answer(&Custom::default(), &clash).unwrap_err();
    assert!(
        error.contains("both a choice") && error.contains("an index"),
        "{error}"
    );
    let numbered = json!({"question": "Q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answer": "2"});
    assert_eq!(answer(&Custom::default(), &numbered), Ok(Some(1)));
    let hub = json!({"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "B"});
    assert_eq!(answer(&Custom::default(), &hub), Ok(Some(1)));
}

fn decided(rows: &[Value]) -> Vec<Result<Option<usize>, String>> {
    let rows: Vec<Row> = rows
        .iter()
        .cloned()
        .zip(1..)
        .map(|(row, n)| (n, row))
        .collect();
    let custom = Custom::default().decided_by(&rows).unwrap();
    rows.iter().map(|(_, row)| answer(&custom, row)).collect()
}

#[test]
fn letters_or_texts_all_rows_of_a_file_tell() {
    let row = |choices: [&str; 3], answer: Value| json!({"question": "Which?", "choices": choices, "answer": answer});
    let unclear = || row(["C", "D", "A"], "A".into());
    // Alone it may be either.
    let error = decided(&[unclear()]).remove(0).unwrap_err();
    assert!(
        error.contains("\"A\" is both a choice (\"A\") and a letter (\"C\")"),
        "{error}"
    );
    let letters = decided(&[unclear(), row(["x", "y", "z"], "C".into())]);
    assert_eq!(letters, [Ok(Some(0)), Ok(Some(2))]);
    let texts = decided(&[unclear(), row(["x", "y", "z"], "z".into())]);
    assert_eq!(texts, [Ok(Some(2)), Ok(Some(2))]);
    // The other rows do not agree.
    let mixed = decided(&[
        unclear(),
        row(["x", "y", "z"], "z".into()),
        row(["x", "y", "z"], "B".into()),
    ]);
    assert!(mixed[0].is_err(), "{mixed:?}");
    assert_eq!(mixed[1..], [Ok(Some(2)), Ok(Some(1))]);
    let unclear = || row(["3", "1", "0"], "0".into());
    assert!(decided(&[unclear()])[0].is_err());
    let indices = decided(&[unclear(), row(["x", "y", "z"], "1".into())]);
    assert_eq!(indices, [Ok(Some(0)), Ok(Some(1))]);
    let texts = decided(&[unclear(), row(["8", "7", "9"], "9".into())]);
    assert_eq!(texts, [Ok(Some(2)), Ok(Some(2))]);
    // Numbers among numbers are no clearer.
    let numbers = |choices: [u8; 3], answer: u8| json!({"question": "Which?", "choices": choices, "answer": answer});
    assert!(decided(&[numbers([3, 1, 2], 1)])[0].is_ok());
    assert!(decided(&[numbers([3, 1, 0], 0)])[0].is_err());
    let texts = decided(&[numbers([3, 1, 0], 0), numbers([7, 8, 9], 9)]);
    assert_eq!(texts, [Ok(Some(2)), Ok(Some(2))]);
    // A number beside texts is an index, as it always was.
    assert_eq!(decided(&[row(["3", "1", "0"], 0.into())]), [Ok(Some(0))]);
    assert_eq!(decided(&[row(["x", "y", "z"], json!(2.0))]), [Ok(Some(2))]);
}

#[test]
fn null_and_empty_choices_are_absent_or_refused() {
    let custom = Custom::default();
    let asks = |choices: Value| {
        let row = json!({"question": "Which?", "choices": choices, "answer": 0});
        custom.ask(&row).map(|(question, _)| question.choices)
    };
    assert_eq!(asks(json!(["a", "b", null, null])).unwrap(), ["a", "b"]);
    for (choices, expected) in [
        (json!(["a", null, "b"]), "choices: choice 2 is empty"),
        (json!(["a", " "]), "choices: choice 2 is empty"),
        (json!(["", "a"]), "choices: choice 1 is empty"),
        (json!("[\"a\", \"\"]"), "choices: choice 2 is empty"),
        (
            json!({"text": ["a", ""], "label": ["A", "B"]}),
            "choices: choice 2 is empty",
        ),
        (json!([null]), "choices: expected at least 2"),
        (json!(null), "choices: expected a list"),
    ] {
        let error = asks(choices).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let columns = Custom {
        choices: ["A", "B", "C"].map(String::from).into(),
        ..Custom::default()
    };
    let row = json!({"question": "Which?", "A": "x", "B": "y", "C": null, "answer": "B"});
    assert_eq!(columns.ask(&row).unwrap().0.choices, ["x", "y"]);
    let gap = json!({"question": "Which?", "A": "x", "B": null, "C": "y", "answer": "A"});
    assert!(columns.ask(&gap).unwrap_err().starts_with("B: is empty"));
}

#[test]
fn the_answers_field_has_other_usual_names_and_a_missing_one_is_explained() {
    let custom = Custom::default();
    let row = |field: &str, value: Value| json!({"question": "Which?", "choices": ["x", "y"], field: value});
    assert_eq!(answer(&custom, &row("label", 1.into())), Ok(Some(1)));
    assert_eq!(answer(&custom, &row("answerKey", "B".into())), Ok(Some(1)));
    assert_eq!(answer(&custom, &row("other", 1.into())), Ok(None));
    let error = answer(&custom, &row("label", "hard".into())).unwrap_err();
    assert!(
        error.starts_with("label: ") && error.contains("--answer-field"),
        "{error}"
    );
    let row = json!({"stem": "Which?", "choices": ["x", "y"], "answer": "A"});
    let error = answer(&custom, &row).unwrap_err();
    for part in [
        "question: is missing",
        "stem",
        "--question-field",
        "data.custom.question",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

fn of(rows: &[Value]) -> (Custom, Vec<Result<MultipleChoice, String>>) {
    let rows: Vec<Row> = rows.iter().cloned().enumerate().collect();
    let custom = Custom::default().decided_by(&rows).unwrap();
    let read = rows.iter().map(|(_, row)| custom.parse(row));
    let read = read.map(|q| q.map(|q| q.expect("has an answer"))).collect();
    (custom, read)
}

#[test]
fn usual_names_are_found_and_said() {
    let sheet = |answer: &str| json!({"No.": 1, "Question Text": "Which?", "Option A": "x", "Option B": "y", "Correct Answer": answer, "Comment": "-"});
    let (custom, read) = of(&[sheet("A"), sheet("b")]);
    assert_eq!(read[1].as_ref().unwrap().answer, 1);
    assert_eq!(
        custom.found_by_itself().unwrap(),
        "question from Question Text; choices from Option A, Option B; answer from Correct Answer"
    );
    // What is there under the plain name is taken, whatever else is there.
    let plain =
        json!({"question": "Which?", "choices": ["x", "y"], "answer": 0, "label": 1, "stem": "no"});
    let (custom, read) = of(&[plain]);
    assert_eq!(
        (read[0].as_ref().unwrap().answer, custom.found_by_itself()),
        (0, None)
    );
    for (row, answer) in [
        (
            json!({"query": "Which?", "options": {"A": "x", "B": "y", "C": null}, "answer_idx": "B"}),
            1,
        ),
        (
            json!({"stem": "Which?", "options": [{"key": "A", "value": "x"}, {"key": "B", "value": "y"}], "key": "B"}),
            1,
        ),
        (
            json!({"problem": "Which?", "options": {"label": ["1", "2"], "text": ["x", "y"]}, "label": "2"}),
            1,
        ),
        (
            json!({"goal": "Which?", "sol1": "x", "sol2": "y", "label": 0}),
            0,
        ),
    ] {
        let (_, read) = of(std::slice::from_ref(&row));
        let question = read[0].as_ref().unwrap();
        assert_eq!(
            (&*question.question, question.answer),
            ("Which?", answer),
            "{row}"
        );
        assert_eq!(question.choices, ["x", "y"], "{row}");
    }
}

#[test]
fn of_two_columns_the_one_that_reads_is_the_answer() {
    let row = |label: usize| json!({"question": "Which?", "A": "x", "B": "y", "solution": "because it is so", "cop": label});
    let (custom, read) = of(&[row(0), row(1)]);
    assert_eq!(custom.answer, "cop");
    assert_eq!(read[1].as_ref().unwrap().answer, 1);
    // A column that means no choice is no answer, under whatever name.
    let row = json!({"question": "Which?", "A": "x", "B": "y", "target": "grade 7"});
    assert_eq!(of_answers(&row), Ok(None));
}

fn of_answers(row: &Value) -> Result<Option<usize>, String> {
    let rows = vec![(1, row.clone())];
    answer(&Custom::default().decided_by(&rows).unwrap(), row)
}

#[test]
fn answers_that_count_from_one_are_noticed() {
    let row = |answer: Value| json!({"question": "Which?", "A": "x", "B": "y", "C": "z", "label": answer});
    for texts in [false, true] {
        let value = |n: u8| {
            if texts {
                json!(n.to_string())
            } else {
                json!(n)
            }
        };
        let (custom, read) = of(&[row(value(1)), row(value(3))]);
        let answers: Vec<_> = read.iter().map(|q| q.as_ref().unwrap().answer).collect();
        assert_eq!(answers, [0, 2]);
        assert!(
            custom
                .found_by_itself()
                .unwrap()
                .ends_with("answers counted from 1")
        );
        // Also where most are the last choice.
        let (_, read) = of(&[3, 3, 3, 1].map(|n| row(value(n))));
        let answers: Vec<_> = read.iter().map(|q| q.as_ref().unwrap().answer).collect();
        assert_eq!(answers, [2, 2, 2, 0]);
        // Without the last choice, or with a 0, they count from 0.
        for others in [[1, 2], [0, 2]] {
            let (_, read) = of(&others.map(|n| row(value(n))));
            let answers: Vec<_> = read.iter().map(|q| q.as_ref().unwrap().answer).collect();
            assert_eq!(answers, others.map(usize::from));
        }
        let rows = vec![(1, row(value(0))), (2, row(value(3)))];
        let custom = Custom::default().decided_by(&rows).unwrap();
        assert!(custom.ask(&rows[1].1).is_err());
    }
    // A choice that is a number is meant itself.
    let own = json!({"question": "Which?", "choices": ["3", "1", "2"], "answer": "3"});
    assert_eq!(of_answers(&own), Ok(Some(0)));
}

#[test]
fn a_runs_own_names_serve_where_a_file_has_them() {
    let run = Custom {
        question: "stem".into(),
        choices: vec!["X".into(), "Y".into()],
        answer: "key".into(),
        ..Custom::default()
    };
    let same = [(
        1,
        json!({"stem": "Which?", "X": "x", "Y": "y", "question": "no"}),
    )];
    let fields = run.where_present(&same).with_columns(&same);
    assert_eq!(fields.ask(&same[0].1).unwrap().0.question, "Which?");
    let other = [(
        1,
        json!({"question": "Which?", "A": "x", "B": "y", "answer": "B"}),
    )];
    let fields = run.where_present(&other).with_columns(&other);
    assert_eq!(fields.ask(&other[0].1).unwrap().1, Some(1));
    // Given for this file, a name that it lacks is an error.
    let error = run.with_columns(&other).ask(&other[0].1).unwrap_err();
    assert!(
        error.starts_with("X: is missing; the row has question, A, B, answer"),
        "{error}"
    );
}
